"""Leaves that know nothing of the project: config, registry, schema, errors, files, logging. None
imports paddle.
"""
