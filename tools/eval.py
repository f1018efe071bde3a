"""The command `passl eval`, from a checkout."""

from _checkout import run

from passl.cli.eval import main

run(main)
