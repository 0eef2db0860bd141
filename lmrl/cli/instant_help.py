"""
Imported first by a recipe: where its command has `--help`, prints the help from what is saved of the recipe and exits,
before TRL and torch are imported, which takes seconds. Where nothing saved applies, `lmrl.cli.parse` prints it.
"""

import sys
from pathlib import Path

from .catalog import saved_help

_help = saved_help(Path(getattr(sys.modules["__main__"], "__file__", None) or ""), sys.argv[1:])
if _help is not None:
    sys.stdout.write(_help)
    sys.exit(0)
