"""sacrebleu's tokens, sooner."""

import re
import string
from typing import Any

_ALONE = re.escape("".join(mark for mark in string.punctuation if mark not in "',-."))
# What 13a keeps whole: anything but the marks above, with a hyphen that follows no digit, a stop or comma in a number.
_TOKEN = re.compile(rf"(?:[^\s{_ALONE}.,-]+|(?<![0-9])-|(?<=[0-9])[.,](?=[0-9]))+|\S")
# Entities, <skipped>, words divided at the end of a line, and neighbouring stops, of which 13a misses every second.
_RARE = ("&", "<", "-\n", "..", ".,", ",.", ",,")


def sacrebleu_tokens(text: str, tokenizer: Any) -> list[str]:
    """
    Returns the tokens of a text by a tokenizer of sacrebleu's.

    The four substitutions of its 13a are one expression here, for the texts in which they do not get in each other's
    way: nearly all. The others are left to sacrebleu.

    Args:
        text (`str`):
            Any text.
        tokenizer (`sacrebleu.tokenizers.tokenizer_base.BaseTokenizer`):
            Such as `sacrebleu.metrics.bleu.BLEU(tokenize="13a").tokenizer`.
    """
    if tokenizer.signature() == "13a" and not any(mark in text for mark in _RARE):
        return _TOKEN.findall(text)
    tokenized: str = tokenizer(text.rstrip())  # rstrip: as sacrebleu does before any tokenizer
    return tokenized.split()
