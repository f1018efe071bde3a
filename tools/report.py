"""`passl report`, from a checkout."""

from _checkout import run_command

run_command("report")
