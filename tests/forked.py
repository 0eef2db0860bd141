"""Real processes for the tests that kill them, forked from one that has imported everything: they start at once."""

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["lmrl.trainers.ppo", "transformers.models.gpt2.modeling_gpt2", "peft", "deepspeed"])


@contextmanager
def started(target: Callable[..., None], *args: Any, out: Path, processes: int = 1) -> Iterator[list[BaseProcess]]:
    """Starts `target(*args)` on the ranks of one run; what they print is in `<out>/<rank>.txt`. Kills what is left."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    out.mkdir(parents=True, exist_ok=True)
    ranks = [
        _FORKS.Process(target=_rank, args=(rank, processes, port, out, target, args), daemon=True)
        for rank in range(processes)
    ]
    for rank in ranks:
        rank.start()
    try:
        yield ranks
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()


def run(target: Callable[..., None], *args: Any, out: Path, processes: int = 1, ends: int = 0) -> str:
    """Runs it to its end, and returns what the first process printed; `ends` is the exit status expected of all."""
    with started(target, *args, out=out, processes=processes) as ranks:
        for rank in ranks:
            rank.join(timeout=120)
        printed = [(out / f"{rank}.txt").read_text() for rank in range(processes)]
        assert [rank.exitcode for rank in ranks] == [ends] * processes, "\n".join(printed)[-6000:]
    return printed[0]


def _rank(rank: int, processes: int, port: int, out: Path, target: Callable[..., None], args: tuple[Any, ...]) -> None:
    log = os.open(out / f"{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if processes > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(port),
        }
        os.environ |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    status = 0
    try:
        target(*args)
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
