"""Where the tokens of a completion end in its text."""

import itertools
from typing import Any

from torch import Tensor


class TextEnds:
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

    def __call__(self, completion_ids: Tensor, mask: Tensor) -> list[tuple[str, list[int]]]:
        """
        Returns for each completion its text, as rewards get it, and the characters before each token that counts.

        Args:
            completion_ids (`torch.Tensor` of shape `(B, T)`), mask (`torch.Tensor` of shape `(B, T)`):
                Tokens, and 1 where one counts.
        """
        rows = [ids[kept].tolist() for ids, kept in zip(completion_ids, mask.bool(), strict=True)]
        texts = self._tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [(text, self._ends(ids, text)) for ids, text in zip(rows, texts, strict=True)]

    def _ends(self, ids: list[int], text: str) -> list[int]:
        pairs = [tuple(ids[max(place - 1, 0) : place + 1]) for place in range(len(ids))]
        added = [number for pair in pairs if (number := self._added_by(pair)) is not None]
        if len(added) < len(ids) or sum(added) != len(text):
            return [_shared(self._decode(ids[:place]), text) for place in range(len(ids))]
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


def _shared(beginning: str, text: str) -> int:
    """Returns how many characters of a decoded beginning the text has too: an unfinished one is not of them."""
    beginning = beginning.rstrip("\ufffd")
    while not text.startswith(beginning):
        beginning = beginning[:-1]
    return len(beginning)
