"""The command `passl config`, from a checkout."""

from _checkout import run

from passl.cli.config import main

run(main)
