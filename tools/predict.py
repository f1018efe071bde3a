"""The command `passl predict`, from a checkout."""

from _checkout import run

from passl.cli.predict import main

run(main)
