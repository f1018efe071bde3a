"""A checkout needs no installation: its folder is where `passl` is imported from."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from passl.cli.main import run  # noqa: E402, F401
