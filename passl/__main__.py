"""`python -m passl` is the command `passl`. The launcher starts this file by its path."""

import os
import sys

if not __package__:  # started by path: import the package from where this file is
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from passl.cli.dispatch import main

main()
