"""Processes that score: started anew, so that threads and CUDA do no harm, and killed when they take too long."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from .base import call_reward

_SPAWN = multiprocessing.get_context("spawn")


class Failure(NamedTuple):
    """Why a worker gave no rewards, and its traceback if it lived to tell."""

    reason: str
    trace: str = ""

    def error(self, message: str) -> RuntimeError:
        """Returns what is to be raised, with the traceback as a note."""
        error = RuntimeError(f"{message}: {self.reason}.")
        if self.trace:
            error.add_note(f"In the worker process:\n{self.trace}")
        return error


Answer = list[float | None] | Failure


def _failure(error: BaseException) -> Failure:
    return Failure(f"it raised {type(error).__name__}: {str(error).rstrip('.')}", traceback.format_exc())


def _end_with_parent() -> None:
    """Ends this process and all that it started once the parent is gone, also while a scorer hangs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)


def _work(connection: Connection, files: list[str], pickled: bytes) -> None:
    os.setsid()  # a group of its own: killed with all that the scorer started, and out of reach of Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        from .specs import _module_of_file

        for file in files:
            _module_of_file(Path(file))
        reward = pickle.loads(pickled)
    except Exception as error:
        connection.send(_failure(error))
        return
    connection.send(None)  # ready
    with contextlib.suppress(EOFError):  # the parent has closed its end
        while True:
            inputs = connection.recv()
            try:
                answer: Answer = call_reward(reward, **inputs)
            except Exception as error:
                answer = _failure(error)
            connection.send(answer)


class _Worker:
    """One process with the chunk it works on, if any, and the time by which it has to be done."""

    def __init__(self, name: str, pickled: bytes) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        # Functions that a configuration takes from a file belong to modules that are on no path.
        own = [name for name in sys.modules if name.startswith("rewards_of_") and name.encode() in pickled]
        files = [str(sys.modules[name].__file__) for name in own]
        self.process = _SPAWN.Process(target=_work, args=(theirs, files, pickled), name=name, daemon=True)
        self.process.start()
        theirs.close()  # with only the worker's own copy left, its death ends the connection
        self.ready = False
        self.chunk: int | None = None
        self.deadline = float("inf")

    def stop(self) -> int | None:
        """Kills the process, with all that it started; returns how it ended, which may have been before."""
        if self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has no group yet, or it is empty
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.connection.close()
        return self.process.exitcode


class Pool:
    """
    Worker processes that live from call to call, each with a copy of the reward.

    Args:
        reward (`Callable`):
            The reward, which must be picklable.
        name (`str`):
            Name of the reward, for errors and the names of processes.
        workers (`int`):
            Processes at most.
        timeout (`float` or `None`):
            Seconds that a chunk may take, after which its worker is killed.
        retries (`int`):
            Further attempts at a chunk that failed.
    """

    def __init__(
        self, reward: Callable[..., Any], name: str, workers: int, timeout: float | None, retries: int
    ) -> None:
        self.pickled = pickle.dumps(reward)
        self.name = name
        self.size = workers
        self.timeout = timeout
        self.retries = retries
        self.workers: list[_Worker] = []

    def close(self) -> None:
        """Kills all workers. The next call starts new ones."""
        while self.workers:
            self.workers.pop().stop()

    def score(self, chunks: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Returns the rewards of each chunk, or why there are none, in order."""
        answers: dict[int, Answer] = {}
        for worker in [worker for worker in self.workers if not worker.process.is_alive()]:
            self._drop(worker)
        waiting = deque(range(len(chunks)))
        attempts = dict.fromkeys(waiting, 0)
        try:
            while len(answers) < len(chunks):
                self._hand_out(waiting, chunks)
                for chunk, answer in self._collect():
                    attempts[chunk] += 1
                    if isinstance(answer, Failure) and attempts[chunk] <= self.retries:
                        waiting.append(chunk)
                    else:
                        answers[chunk] = answer
        except BaseException:  # a worker still busy would answer to the next call
            self.close()
            raise
        return [answers[chunk] for chunk in range(len(chunks))]

    def _hand_out(self, waiting: deque[int], chunks: Sequence[Mapping[str, Any]]) -> None:
        free = [worker for worker in self.workers if worker.chunk is None]
        while len(free) < len(waiting) and len(self.workers) < self.size:
            worker = _Worker(f"reward-{self.name}", self.pickled)
            self.workers.append(worker)
            free.append(worker)
        for worker in free:
            if worker.ready and waiting:
                worker.chunk = waiting.popleft()
                worker.deadline = time.monotonic() + (self.timeout or float("inf"))
                with contextlib.suppress(BrokenPipeError):  # it has just died: `_collect` finds out
                    worker.connection.send(chunks[worker.chunk])

    def _collect(self) -> list[tuple[int, Answer]]:
        """Waits for news; returns the chunks done or failed."""
        left = min(worker.deadline for worker in self.workers) - time.monotonic()
        connections = [worker.connection for worker in self.workers]
        told = wait(connections, None if left == float("inf") else max(left, 0))
        done = []
        for worker in list(self.workers):
            answer = None
            if worker.connection in told:
                answer = self._read(worker)
            elif time.monotonic() >= worker.deadline:
                self._drop(worker)
                answer = Failure(f"it took longer than the timeout of {self.timeout:g} s and was killed")
            if answer is not None and worker.chunk is not None:
                done.append((worker.chunk, answer))
                worker.chunk, worker.deadline = None, float("inf")
        return done

    def _drop(self, worker: _Worker) -> int | None:
        self.workers.remove(worker)
        return worker.stop()

    def _read(self, worker: _Worker) -> Answer | None:
        try:
            answer: Answer | None = worker.connection.recv()
        except (EOFError, OSError):  # nothing more, or not all of an answer
            answer = Failure(f"its process ended, {_exit(self._drop(worker))}")
        if not worker.ready and isinstance(answer, Failure):
            raise answer.error(
                f"The reward {self.name!r} could not be loaded in a worker process, where it must be importable, and "
                "the script too: what it runs belongs under `if __name__ == '__main__':`. What happened"
            )
        worker.ready = True
        return answer


def _exit(code: int | None) -> str:
    return f"killed by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
