"""The vocabulary: the field's terms, and none of the words below, in names, comments, docstrings and messages.

`FORBIDDEN` gives each word and what to write instead. Files of prose (Markdown) and quoted data are not read.
"""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FORBIDDEN = {
    "told|tell|tells|telling": "Write what the function does: returns, reports, raises, distinguishes.",
    "say|says|said|saying": "Write states, names, or describes; for an error, its message.",
    "answer|answers|answered": "Write completion, response or result.",
    "asked": "Write given, requested, or the name of the caller.",
    "judge|judges|judged": "Write scores or evaluation models.",
    "doomed": "Write what will be done to it: trashed, expired.",
    "mine|theirs|ours": "Write whose it is: the completion's, the reference's, lmrl's, the library's.",
    "paid": "Write the KL, the cost, or the budget.",
    "whole": "Write complete, gathered or full.",
    "logp|logps|logprob|logprobs": "Write log_probs.",
}
# TRL's own names at the seam, and the ordinary words of arithmetic and of text.
EXCEPT = re.compile(
    r"\w*per_token_logps\w*|\bold_logps\b|\w*sampling_logp_difference\w*|\breturn_logprobs\b|\blogprobs\b"
    r"|whole[ _](?:numbers?|words?)(?![a-z])|\bwhole:"
)

# From Python 3.12 on the text of an f-string is a token of its own.
READ = (tokenize.NAME, tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))
PLACES = ("lmrl", "recipes", "examples", "benchmarks", "scripts", "tests")


def folder_of(path: Path) -> str:
    """Returns the folder that a file is counted in: a room, or the place itself."""
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]) if len(parts) > 2 and parts[0] in ("lmrl", "tests") else parts[0]


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yields the line and the text of every name, comment and string of a Python file."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in READ:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line


def words(text: str) -> list[str]:
    """Returns the words of a text in lower case, those of snake_case and CamelCase names one by one."""
    text = EXCEPT.sub(" ", text)
    return re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text.replace("_", " "))


def forbidden_words(path: Path) -> list[str]:
    """Returns a sentence for each forbidden word of a file."""
    remedies = {word: remedy for line, remedy in FORBIDDEN.items() for word in line.split("|")}
    name = path.relative_to(ROOT)
    return [
        f"{name}:{line} has the word `{word}` in {text.strip()[:100]!r}. {remedies[word.lower()]}"
        for line, text in texts(path.read_text(encoding="utf-8"))
        for word in words(text)
        if word.lower() in remedies
    ]


def files() -> dict[str, list[Path]]:
    """Returns the Python files of each folder, but for this one."""
    found: dict[str, list[Path]] = {}
    for place in PLACES:
        for path in sorted((ROOT / place).rglob("*.py")):
            if path != Path(__file__):
                found.setdefault(folder_of(path), []).append(path)
    return found


@pytest.mark.parametrize("folder", files())
def test_names_comments_and_messages_use_the_words_of_the_field(folder: str) -> None:
    """One meaning, one word: the words forbidden here had several each."""
    found = [sentence for path in files()[folder] for sentence in forbidden_words(path)]
    if found:
        pytest.fail("\n".join(found), pytrace=False)
