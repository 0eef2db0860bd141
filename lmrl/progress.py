"""Progress: what a reward knows of a text that is not finished yet, a few numbers before each token.

A critic that sees them can value the text so far against its references. Only the text so far is read, never the
token that comes next: otherwise the value would depend on the action that it is a baseline of.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

# For each completion, for each of its tokens, the numbers before that token.
Progress: TypeAlias = list[list[list[float]]]


@dataclass(frozen=True)
class Prefixes:
    """
    The texts so far of a completion, before each of its tokens.

    Args:
        text (`str`):
            The completion.
        ends (`Sequence[int]`):
            For each token the number of characters before it: rising, from 0 to at most the length of the text. A
            character of which only some bytes are there is not counted.
    """

    text: str
    ends: Sequence[int]

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        return (self.text[:end] for end in self.ends)


def words_so_far(
    prefixes: Prefixes, units: Callable[[str], Sequence[str]]
) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """
    Yields before each token the units that are new and complete, and those of the word that may go on.

    A word is complete once white space follows it. So no text is read twice but for the word that may go on. `units`
    returns the units of a text, which must be those of its words one after the other.
    """
    start = 0
    for end in prefixes.ends:
        word = end
        while word > start and not prefixes.text[word - 1].isspace():
            word -= 1
        yield units(prefixes.text[start:word]), units(prefixes.text[word:end])
        start = word


def join_progress(
    reward_funcs: Sequence[Callable[..., Any]], prefixes: Sequence[Prefixes], **columns: Any
) -> Progress:
    """
    Returns the numbers of all reward functions side by side; a function without `progress` adds none.

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
    joined: Progress = [[[] for _ in range(len(each))] for each in prefixes]
    for reward_func in reward_funcs:
        if hasattr(reward_func, "progress"):
            found = reward_func.progress(prefixes=prefixes, **columns)
            _check(getattr(reward_func, "__name__", type(reward_func).__name__), found, prefixes)
            joined = [[a + list(b) for a, b in zip(*rows, strict=True)] for rows in zip(joined, found, strict=True)]
    return joined


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


class PrefixFinder:
    """
    Finds for each token of a completion how many characters of the text stand before it.

    No tokenizer gives such numbers for tokens that were sampled. What a token adds to the text depends, in nearly
    every text, on the token before it alone, so it is kept for each pair. A text for which these numbers do not add
    up, or which has characters made of several tokens, is decoded up to each of its tokens.

    Args:
        tokenizer (`transformers.PreTrainedTokenizerBase`):
            Tokenizer that decodes the completions.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added: dict[tuple[int, ...], int | None] = {}

    def __call__(self, completions: Sequence[list[int]]) -> list[Prefixes]:
        """Returns the texts so far of completions, given their token ids: the texts are those that rewards get."""
        texts = self._tokenizer.batch_decode(completions, skip_special_tokens=True)
        return [Prefixes(text, self._ends(ids, text)) for ids, text in zip(completions, texts, strict=True)]

    def _ends(self, ids: list[int], text: str) -> list[int]:
        pairs = [tuple(ids[max(place - 1, 0) : place + 1]) for place in range(len(ids))]
        added = [number for pair in pairs if (number := self._added_by(pair)) is not None]
        if len(added) < len(ids) or sum(added) != len(text):
            # A character of which some bytes are missing is decoded as U+FFFD, and is not there yet.
            beginnings = [self._decode(ids[:place]).rstrip("\ufffd") for place in range(len(ids))]
            return [common_beginning(text, beginning) for beginning in beginnings]
        return list(itertools.accumulate(added[:-1], initial=0)) if ids else []

    def _added_by(self, pair: tuple[int, ...]) -> int | None:
        """Returns the characters that the last of two tokens adds, or the first of a text; None of broken ones."""
        if pair not in self._added:
            texts = self._decode(list(pair[:-1])), self._decode(list(pair))
            self._added[pair] = None if "\ufffd" in "".join(texts) else len(texts[1]) - len(texts[0])
        return self._added[pair]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


def common_beginning(text: str, other: str) -> int:
    """Returns the number of characters at their beginning that two texts share."""
    shared = 0
    for a, b in zip(text, other, strict=False):
        if a != b:
            break
        shared += 1
    return shared
