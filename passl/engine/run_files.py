"""Names of files in the folder of a run that are read without Paddle too, and what they hold."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

METRICS = "metrics.jsonl"
VISUALDL = "vdl"
LOG = "train.log"
STARTS = "starts.jsonl"
WARNING = re.compile(r"\[([^\]]*)\] passl[^:]* (?:WARNING|ERROR): (.*)")
"""A warning or an error in the log, from the beginning of its line: time and text."""


def json_objects(lines: Iterable[str | bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects of lines; what is damaged or no object is left out."""
    for line in lines:
        with suppress(ValueError, RecursionError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield value
