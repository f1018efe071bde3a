"""Speed and memory of a config: `benchmarks/measure.py`."""

from _checkout import run

from benchmarks.measure import main

run(main)
