"""The command `passl visualize`, from a checkout."""

from _checkout import run

from passl.cli.visualize import main

run(main)
