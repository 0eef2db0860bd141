"""Worker processes that score: spawned, so that threads and CUDA do no harm, and killed when they take too long."""

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
from typing import Any, NamedTuple, TypeAlias

from .base import Scores, call_reward
from .specs import FILE_PREFIX, module_of_file

_SPAWN = multiprocessing.get_context("spawn")


class Failure(NamedTuple):
    """The reason why a worker returned no rewards, with its traceback, if it raised."""

    reason: str
    trace: str = ""

    def error(self, message: str) -> RuntimeError:
        """Returns the error to raise, with the traceback as a note."""
        error = RuntimeError(f"{message}: {self.reason}.")
        if self.trace:
            error.add_note(f"In the worker process:\n{self.trace}")
        return error


Result: TypeAlias = Scores | Failure


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
        for file in files:
            module_of_file(Path(file))
        reward = pickle.loads(pickled)
    except Exception as error:
        connection.send(_failure(error))
        return
    connection.send(None)  # ready
    with contextlib.suppress(EOFError):  # the parent has closed its end
        while True:
            inputs = connection.recv()
            try:
                result: Result = call_reward(reward, **inputs)
            except Exception as error:
                result = _failure(error)
            connection.send(result)


class _Worker:
    """A process with the chunk it works on, if any, and the deadline of the chunk."""

    def __init__(self, name: str, pickled: bytes) -> None:
        self.connection, end_of_worker = _SPAWN.Pipe()
        # Functions that a configuration takes from a file belong to modules that are on no path.
        own = [name for name in sys.modules if name.startswith(FILE_PREFIX) and name.encode() in pickled]
        files = [str(sys.modules[name].__file__) for name in own]
        self.process = _SPAWN.Process(target=_work, args=(end_of_worker, files, pickled), name=name, daemon=True)
        self.process.start()
        end_of_worker.close()  # with only the worker's own copy left, its death ends the connection
        self.ready = False
        self.chunk: int | None = None
        self.deadline = float("inf")

    def stop(self) -> int | None:
        """Kills the process, with all that it started, and returns its exit code."""
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

    def score(self, chunks: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Returns the rewards of each chunk, or its failure, in order."""
        results: dict[int, Result] = {}
        for worker in [worker for worker in self.workers if not worker.process.is_alive()]:
            self._drop(worker)
        waiting = deque(range(len(chunks)))
        attempts = dict.fromkeys(waiting, 0)
        try:
            while len(results) < len(chunks):
                self._hand_out(waiting, chunks)
                for chunk, result in self._collect():
                    attempts[chunk] += 1
                    if isinstance(result, Failure) and attempts[chunk] <= self.retries:
                        waiting.append(chunk)
                    else:
                        results[chunk] = result
        except BaseException:  # a worker still busy would send its result to the next call
            self.close()
            raise
        return [results[chunk] for chunk in range(len(chunks))]

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

    def _collect(self) -> list[tuple[int, Result]]:
        """Waits for a message or a deadline; returns the chunks done or failed."""
        left = min(worker.deadline for worker in self.workers) - time.monotonic()
        connections = [worker.connection for worker in self.workers]
        readable = wait(connections, None if left == float("inf") else max(left, 0))
        done = []
        for worker in list(self.workers):
            result = None
            if worker.connection in readable:
                result = self._read(worker)
            elif time.monotonic() >= worker.deadline:
                self._drop(worker)
                result = Failure(f"it took longer than the timeout of {self.timeout:g} s and was killed")
            if result is not None and worker.chunk is not None:
                done.append((worker.chunk, result))
                worker.chunk = None
                worker.deadline = float("inf")
        return done

    def _drop(self, worker: _Worker) -> int | None:
        self.workers.remove(worker)
        return worker.stop()

    def _read(self, worker: _Worker) -> Result | None:
        try:
            result: Result | None = worker.connection.recv()
        except (EOFError, OSError):  # no message, or a part of one
            result = Failure(f"its process ended, {_exit(self._drop(worker))}")
        if not worker.ready and isinstance(result, Failure):
            raise result.error(
                f"The reward {self.name!r} could not be loaded in a worker process, where it must be importable, and "
                "the script too: its code must run under `if __name__ == '__main__':`. The reason"
            )
        worker.ready = True
        return result


def _exit(code: int | None) -> str:
    return f"killed by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
