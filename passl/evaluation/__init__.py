"""Predictions and everything computed from them."""

from passl.utils.registry import Registry

METRICS = Registry("metric", ["passl.evaluation.added_metrics"])
"""A metric is called with the `Predictions` of all ranks, each sample once, and the number of
classes, and returns a number. It is computed beside the standard scores (`scores.Scores`), under
its registered name. Its class attribute `tasks` names the tasks whose predictions it takes (see
`task.Task.collect`); the default is `("classification",)`.
"""
