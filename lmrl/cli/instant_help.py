"""
A recipe imports this first: if its command has `--help`, this prints the saved help and exits, before TRL and torch
are imported, which takes seconds. If no saved help applies, `lmrl.cli.parse` prints it.
"""

import sys
from pathlib import Path

from .catalog import saved_help

_help = saved_help(Path(getattr(sys.modules["__main__"], "__file__", None) or ""), sys.argv[1:])
if _help is not None:
    sys.stdout.write(_help)
    sys.exit(0)
