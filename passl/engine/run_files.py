"""Names of files in the folder of a run that are read without Paddle too, and what they hold."""

import re

METRICS = "metrics.jsonl"
VISUALDL = "vdl"
LOG = "train.log"
STARTS = "starts.jsonl"
WARNING = re.compile(r"\[([^\]]*)\] passl[^:]* (?:WARNING|ERROR): (.*)")
"""A warning or an error in the log, from the beginning of its line: time and text."""
