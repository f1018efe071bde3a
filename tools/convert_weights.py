"""The command `passl convert`, from a checkout."""

from _checkout import run

from passl.cli.convert import main

run(main)
