"""A reward that is asked again after it failed."""

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from .base import call_reward
from .slow import Wrapped


class Retried(Wrapped):
    """
    Returns what another reward gives, which is asked again when it raises.

    For a scorer on another machine that is now and then out of reach. It runs in this process: one that may hang
    belongs into [`InWorkers`], which has a timeout and `retries` of its own.

    Args:
        reward (`Callable`):
            Any callable that TRL takes as a reward function, `async` ones included.
        retries (`int`, *optional*, defaults to `2`):
            Further attempts, at least 1. The last failure is raised.
        wait (`float`, *optional*, defaults to `1.0`):
            Seconds before the second attempt, twice as many before each further one.

    Raises:
        ValueError: if `reward` cannot be wrapped, or for an argument out of its range.

    Example:

    ```python
    >>> Retried(Length(4), retries=3)(completions=["one two"])
    [0.5]
    ```
    """

    def __init__(self, reward: Callable[..., Any], retries: int = 2, wait: float = 1.0):
        super().__init__(reward)
        if retries < 1:
            raise ValueError(f"`retries` must be at least 1, got {retries}: without any, use the reward as it is.")
        if not 0 <= wait < float("inf"):
            raise ValueError(f"`wait` is in seconds and must be at least 0, got {wait}.")
        self.retries = retries
        self.wait = wait

    def __call__(
        self, *, completions: Sequence[Any], prompts: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
        inputs = self._inputs(completions, prompts, columns)
        for attempt in range(self.retries):
            try:
                return call_reward(self.reward, **inputs)
            except Exception as error:
                pause = self.wait * 2**attempt
                told = f"{type(error).__name__}: {str(error).rstrip('.')}"
                warnings.warn(
                    f"The reward {self.__name__!r} raised {told}. Attempt {attempt + 2} of {self.retries + 1} follows "
                    f"in {pause:g} s.",
                    RuntimeWarning,
                    stacklevel=2,
                )
                time.sleep(pause)
        return call_reward(self.reward, **inputs)
