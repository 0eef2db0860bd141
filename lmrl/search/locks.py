"""Locks that the system takes back when their process dies, however it dies."""

import fcntl
from pathlib import Path
from typing import IO


class FileLock:
    """
    A lock on a file, held by one at a time of all threads and processes.

    Args:
        path (`str` or `Path`):
            The file; it is made if need be.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._stream: IO[bytes] | None = None

    def acquire(self, wait: bool = True) -> bool:
        """Returns whether the lock was taken; with `wait`, it is."""
        stream = self.path.open("ab")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            stream.close()
            return False
        self._stream = stream
        return True

    def release(self) -> None:
        """Gives the lock back."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()

    def __enter__(self) -> "FileLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
