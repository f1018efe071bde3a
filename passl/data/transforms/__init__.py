"""Transforms of one image, and of a batch."""
