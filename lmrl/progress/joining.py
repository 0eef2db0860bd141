"""The numbers of several rewards side by side, and their potential: the reward as if the text ended here."""

from collections.abc import Callable, Sequence
from typing import Any, cast

from lmrl.utils import name_of

from .prefixes import Prefixes, Progress, per_completion

RewardFunc = Callable[..., Any]


def progress_of_each(
    reward_funcs: Sequence[RewardFunc], prefixes: Sequence[Prefixes], **columns: Any
) -> list[Progress]:
    """
    Returns the numbers of each reward function; a function without `progress` has none.

    Args:
        reward_funcs (list of callables):
            Reward functions. Their `progress(prefixes=..., prompts=..., **columns)` returns for each completion, for
            each of its tokens, the same number of numbers.
        prefixes (list of [`Prefixes`]):
            The texts so far of each completion.
        **columns:
            `prompts`, and the columns of the dataset.

    Raises:
        ValueError: If a function returns another number of completions or tokens, or unlike numbers.
    """
    found = []
    for reward_func in reward_funcs:
        numbers: Progress = [[[] for _ in each.ends] for each in prefixes]
        if hasattr(reward_func, "progress"):
            numbers = reward_func.progress(prefixes=prefixes, **columns)
            _check(name_of(reward_func), numbers, prefixes)
        found.append(numbers)
    return found


def _check(name: str, found: Progress, prefixes: Sequence[Prefixes]) -> None:
    tokens = [len(each) for each in prefixes]
    given = [len(each) for each in found]
    widths = {len(numbers) for each in found for numbers in each}
    if given != tokens or len(widths) > 1:
        raise ValueError(
            f"The `progress` of the reward {name!r} must have as many numbers for each of {sum(tokens)} tokens of "
            f"{len(tokens)} completions, got {sorted(widths)} numbers for {sum(given)} tokens of {len(given)}. Return "
            "a list for each token."
        )


def side_by_side(found: Sequence[Progress], prefixes: Sequence[Prefixes]) -> Progress:
    """Returns the numbers of several functions as those of one."""
    joined: Progress = [[[] for _ in each.ends] for each in prefixes]
    for numbers in found:
        joined = [[a + list(b) for a, b in zip(*rows, strict=True)] for rows in zip(joined, numbers, strict=True)]
    return joined


def join_progress(reward_funcs: Sequence[RewardFunc], prefixes: Sequence[Prefixes], **columns: Any) -> Progress:
    """Returns the numbers of all reward functions side by side: see [`progress_of_each`]."""
    return side_by_side(progress_of_each(reward_funcs, prefixes, **columns), prefixes)


def potential_of(reward_func: RewardFunc) -> int | None:
    """
    Returns the index of the number in a function's `progress` that is its reward as if the text ended here, or None.

    A function states it as its attribute `potential`.
    """
    return getattr(reward_func, "potential", None) if hasattr(reward_func, "progress") else None


def potentials(reward_funcs: Sequence[RewardFunc], found: Sequence[Progress]) -> list[tuple[float, ...]]:
    """Returns the potentials of all functions, which must have one, for each token of all completions."""
    columns = []
    for reward_func, of_function in zip(reward_funcs, found, strict=True):
        place = cast(int, potential_of(reward_func))
        columns.append([numbers[place] for of_completion in of_function for numbers in of_completion])
    return list(zip(*columns, strict=True))


def join_progress_and_potential(
    combine: Callable[[tuple[float, ...]], float | None],
    reward_funcs: Sequence[RewardFunc],
    prefixes: Sequence[Prefixes],
    **columns: Any,
) -> Progress:
    """
    Returns the numbers of all functions side by side, followed by what `combine` computes from their potentials (0 for
    `None`): the potential of a reward made of these functions. It is left out if one of them has no potential.
    """
    found = progress_of_each(reward_funcs, prefixes, **columns)
    if all(potential_of(reward_func) is not None for reward_func in reward_funcs):
        combined = [[combine(values) or 0.0] for values in potentials(reward_funcs, found)]
        found.append(per_completion(combined, prefixes))
    return side_by_side(found, prefixes)


def as_if_ended(
    score: Callable[..., Sequence[float | None]],
    prefixes: Sequence[Prefixes],
    prompts: Sequence[Any] | None,
    columns: dict[str, Sequence[Any]],
) -> Progress:
    """
    Returns one number before each token: the score of the text so far, as if it ended there, 0 for `None`.

    Each text so far is scored from its beginning, all in one call: for scores that take microseconds for a text.
    """
    rows = [row for row, each in enumerate(prefixes) for _ in each.ends]
    inputs = {name: [values[row] for row in rows] for name, values in columns.items()}
    texts = [text for each in prefixes for text in each]
    scores = score(completions=texts, prompts=prompts and [prompts[row] for row in rows], **inputs)
    return per_completion([[value or 0.0] for value in scores], prefixes)
