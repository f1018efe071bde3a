"""The command `passl train`, from a checkout."""

from _checkout import run

from passl.cli.train import main

run(main)
