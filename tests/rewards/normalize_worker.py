"""One of two processes that score in training; run by test_normalize.py. Prints what it got."""

import json
import sys
from dataclasses import astuple
from types import SimpleNamespace
from typing import Any

from torch import distributed

from lmrl.cli import run
from lmrl.rewards import Normalized


def own(completions: list[str], scores: list[float | None], **_: Any) -> list[float | None]:
    """Returns the scores it is given."""
    return scores


def main(meeting: str, rank: int) -> None:
    """Score two batches by running statistics, one by group."""
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    scores: list[float | None] = [[1.0, 2.0, 6.0], [5.0, 4.0]][rank]
    later: list[float | None] = [[None, None], [8.0, -1.0]][rank]
    prompts = [["p", "q", "q"], ["p", "q"]][rank]
    running, group = Normalized(own), Normalized(own, by="group")

    def train(reward: Normalized, values: list[float | None]) -> list[float | None]:
        given = {"completions": ["a"] * len(values), "prompts": prompts[: len(values)], "scores": values}
        return reward(**given, trainer_state=SimpleNamespace())

    seen = {"running": train(running, scores), "later": train(running, later), "group": train(group, scores)}
    print(json.dumps({**seen, "statistics": astuple(running.statistics)}))


if __name__ == "__main__":
    run(lambda: main(sys.argv[1], int(sys.argv[2])))
