"""A checkout needs no installation: `passl` is imported from the folder above this one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from passl.cli.dispatch import run, run_command  # noqa: E402, F401
