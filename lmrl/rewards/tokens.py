"""The tokens of sacrebleu's tokenizers."""

import re
import string

from lmrl.utils import check_in

_ALONE = re.escape("".join(mark for mark in string.punctuation if mark not in "',-."))
# A token of 13a: anything but the marks above, with a hyphen that follows no digit, a stop or comma in a number.
_TOKEN = re.compile(rf"(?:[^\s{_ALONE}.,-]+|(?<![0-9])-|(?<=[0-9])[.,](?=[0-9]))+|\S")
# Entities, <skipped>, words divided at the end of a line, and neighbouring stops, of which 13a misses every second.
_RARE = ("&", "<", "-\n", "..", ".,", ",.", ",,")


class SacrebleuTokens:
    """
    Splits texts into the tokens of a tokenizer of sacrebleu.

    The four substitutions of its 13a are one expression here, for the texts in which they do not interfere with each
    other: nearly all. The others go through sacrebleu.

    Args:
        tokenize (`str`):
            Name of a sacrebleu tokenizer: `"13a"`, `"intl"`, `"char"`, `"zh"`, `"none"` ...
        lowercase (`bool`):
            Whether to lower-case the text first.

    Raises:
        ValueError: If sacrebleu has no such tokenizer.
    """

    def __init__(self, tokenize: str, lowercase: bool):
        from sacrebleu.metrics.bleu import BLEU

        check_in(BLEU.TOKENIZERS, tokenize=tokenize)
        self.lowercase = lowercase
        self._tokenizer = BLEU(tokenize=tokenize).tokenizer
        self.name: str = self._tokenizer.signature()

    def __call__(self, text: str) -> list[str]:
        """Returns the tokens of a text."""
        if self.lowercase:
            text = text.lower()
        if self.name == "13a" and not any(mark in text for mark in _RARE):
            return _TOKEN.findall(text)
        tokenized: str = self._tokenizer(text.rstrip())  # rstrip: as sacrebleu does before any tokenizer
        return tokenized.split()
