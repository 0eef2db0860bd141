"""One of two processes that train, in the second of which something goes wrong; run by test_processes.py."""

import atexit
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from training import make_trainer, share_of_letters
from transformers import TrainerCallback

from lmrl.checks import RewardError
from lmrl.cli import run
from lmrl.rewards import Normalized, Weighted

RANK = int(os.environ["RANK"])
FAULT = {"what": "", "step": 2}


def wrong(completions: list[str], trainer_state: Any = None, **_: Any) -> list[float]:
    """Returns rewards; in the third step of the second process it has the fault that is set."""
    if RANK == 1 and trainer_state.global_step == FAULT["step"]:
        if FAULT["what"] == "raise":
            raise KeyError("slot")
        if FAULT["what"] == "nan":
            return [float("nan")] * len(completions)
        if FAULT["what"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    return share_of_letters(completions)


async def wrong_later(**inputs: Any) -> list[float]:
    """Returns the same, as a client of a service would."""
    return wrong(**inputs)


REWARDS: dict[str, tuple[str, Any]] = {
    "nan": ("ppo", lambda: wrong),
    "plain": ("reinforce", lambda: [share_of_letters, wrong]),
    "async": ("reinforce", lambda: [wrong_later, share_of_letters]),
    "before a normalized one": ("ppo", lambda: [wrong, Normalized(share_of_letters)]),
    "inside a normalized one": ("ppo", lambda: Normalized(wrong)),
    "beside a normalized one": ("ppo", lambda: Weighted({wrong: 1.0, Normalized(share_of_letters): 1.0})),
    "inside a group": ("reinforce", lambda: Weighted({Normalized(wrong, by="group"): 1.0, share_of_letters: 1.0})),
}


class Bug(TrainerCallback):
    """What no one has foreseen, in the third step of the second process."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Called before the batches of the step are made."""
        if (RANK, state.global_step, FAULT["what"]) == (1, 2, "bug"):
            raise ZeroDivisionError("a bug of the second process")


def train(name: str, model: str, folder: Path, resume: bool = False) -> Any:
    """Returns a trainer after 4 steps, with a checkpoint after each second one."""
    algorithm, reward = REWARDS[name]
    options: dict[str, Any] = {"baseline": "greedy"} if algorithm == "reinforce" else {"num_iterations": 1}
    options |= {"per_device_train_batch_size": 4, "max_steps": 4, "save_strategy": "steps", "save_steps": 4}
    options["callbacks"] = [Bug()]
    trainer = make_trainer(algorithm, model, folder, reward=reward(), **options)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def main(what: str, model: str, folder: str) -> None:
    """Meet the fault, with each of the rewards if it is a failure of a reward, and go on from what was kept."""
    if what in ("kill", "bug"):
        FAULT["what"] = what
        # As a gloo thread may that frees a tensor while Python exits.
        atexit.register(os.abort)
        train("plain", model, Path(folder))
    seen: dict[str, Any] = {}
    for name in REWARDS:
        FAULT["what"] = "nan" if name == "nan" else "raise"
        place = Path(folder, name.replace(" ", "_"))
        try:
            train(name, model, place)
        except RewardError as error:
            FAULT["what"] = ""
            kept = sorted(path.name for path in place.glob("checkpoint-*"))
            seen[name] = [str(error), kept, train(name, model, place, resume=True).run_state_dict()]
    Path(folder, f"seen_{RANK}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    run(lambda: main(*sys.argv[1:]))
