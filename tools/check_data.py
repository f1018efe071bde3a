"""The command `passl check-data`, from a checkout."""

from _checkout import run

from passl.cli.check_data import main

run(main)
