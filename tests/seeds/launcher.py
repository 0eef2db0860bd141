"""Runs the first file among its arguments, as `lmrl run` does, without the seconds that `accelerate launch` takes."""

import os
import runpy
import sys

place = next(place for place, word in enumerate(sys.argv) if place and word.endswith(".py"))
if seen := os.environ.get("FLAGS_SEEN"):  # a file for the launcher's own flags
    with open(seen, "a") as file:
        print(*sys.argv[1:place], file=file)
sys.argv = sys.argv[place:]
runpy.run_path(sys.argv[0], run_name="__main__")
