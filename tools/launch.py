"""The command `passl launch`, from a checkout."""

from _checkout import run

from passl.cli.launch import main

run(main)
