"""The command `passl export`, from a checkout."""

from _checkout import run

from passl.cli.export import main

run(main)
