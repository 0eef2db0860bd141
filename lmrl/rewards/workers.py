"""Worker processes that score: spawned, as a fork breaks with threads and CUDA, and killed when they take too long."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import repeat
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeAlias, cast

from lmrl.utils import failure_of

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


def _failure(error: BaseException, inputs: Mapping[str, Any] | None = None) -> Failure:
    raised = f"raised {type(error).__name__}: {error}" if inputs is None else failure_of(error, inputs)
    return Failure(f"it {raised.rstrip('.')}", traceback.format_exc())


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
                result = _failure(error, inputs)
            connection.send(result)


class _Worker:
    """A process with a copy of the reward."""

    def __init__(self, name: str, pickled: bytes) -> None:
        self.connection, end_of_worker = _SPAWN.Pipe()
        # Rewards that a configuration takes from a file are in modules that cannot be imported: workers run the files.
        own = [name for name in sys.modules if name.startswith(FILE_PREFIX) and name.encode() in pickled]
        files = [str(sys.modules[name].__file__) for name in own]
        self.process = _SPAWN.Process(target=_work, args=(end_of_worker, files, pickled), name=name, daemon=True)
        self.process.start()
        end_of_worker.close()  # with only the worker's own copy left, its death ends the connection
        self.ready = False

    def receive(self, timeout: float | None) -> Result | None:
        """Returns what the process sends; a [`Failure`] if it ended, or was killed because it took too long."""
        try:
            if self.connection.poll(timeout):
                return cast("Result | None", self.connection.recv())
        except (EOFError, OSError):  # no message, or a part of one
            code = self.stop()
            how = f"killed by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
            return Failure(f"its process ended, {how}")
        self.stop()
        return Failure(f"it took longer than the timeout of {timeout:g} s and was killed")

    def kill(self) -> None:
        """Kills the process, with all that it started."""
        if self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has no group yet, or it is empty
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()

    def stop(self) -> int | None:
        """Ends the process and the connection, and returns the exit code."""
        if not self.connection.closed:
            self.kill()
            self.process.join()
            self.connection.close()
        return self.process.exitcode


class Pool:
    """
    Worker processes that live from call to call, each with a copy of the reward; one thread per worker waits for it.

    The arguments are those of [`InWorkers`], with the reward's name.
    """

    def __init__(
        self, reward: Callable[..., Any], name: str, workers: int, timeout: float | None, retries: int
    ) -> None:
        self._start = partial(_Worker, f"reward-{name}", pickle.dumps(reward))
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
        while len(self.workers) < min(self.size, len(chunks)):
            self.workers.append(self._start())
        idle: SimpleQueue[int] = SimpleQueue()
        for number in range(len(self.workers)):
            idle.put(number)
        results: dict[int, Result] = {}
        failed = list(range(len(chunks)))
        threads = ThreadPoolExecutor(self.size)
        try:
            for _ in range(self.retries + 1):
                attempts = threads.map(self._attempt, repeat(idle), [chunks[number] for number in failed])
                results.update(zip(failed, attempts, strict=True))
                failed = [number for number in failed if isinstance(results[number], Failure)]
        except BaseException:  # a worker still busy would send its result to the next call
            threads.shutdown(wait=False, cancel_futures=True)
            for worker in self.workers:
                worker.kill()
            threads.shutdown()
            self.close()
            raise
        threads.shutdown()
        return [results[number] for number in range(len(chunks))]

    def _attempt(self, idle: SimpleQueue[int], chunk: Mapping[str, Any]) -> Result:
        """Lets the next free worker score a chunk."""
        number = idle.get()
        try:
            return self._score_with(number, chunk)
        finally:
            idle.put(number)

    def _score_with(self, number: int, chunk: Mapping[str, Any]) -> Result:
        if not self.workers[number].process.is_alive():
            self.workers[number].stop()
            self.workers[number] = self._start()
        worker = self.workers[number]
        result = None if worker.ready else worker.receive(None)
        if isinstance(result, Failure):
            raise result.error(
                f"The reward {self.name!r} could not be loaded in a worker process, where it must be importable, and "
                "the script too: its code must run under `if __name__ == '__main__':`. The reason"
            )
        worker.ready = True
        with contextlib.suppress(BrokenPipeError):  # it has just died: `receive` reports it
            worker.connection.send(chunk)
        return worker.receive(self.timeout) or []
