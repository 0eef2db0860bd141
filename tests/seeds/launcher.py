"""Runs the first file among its arguments, as `lmrl run` does, without the seconds that `accelerate launch` takes."""

import runpy
import sys

place = next(place for place, word in enumerate(sys.argv) if place and word.endswith(".py"))
sys.argv = sys.argv[place:]
runpy.run_path(sys.argv[0], run_name="__main__")
