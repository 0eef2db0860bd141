"""What rewards know of unfinished texts: never more than the text so far, and the same as if it were counted anew."""

import math
from collections import Counter

import pytest

from lmrl.progress import Prefixes, join_progress
from lmrl.rewards import BLEU, GLEU, ChrF, Clipped, EditSimilarity, ExactMatch, Keywords, Length, Rouge, TokenF1
from lmrl.rewards.progress import overlap_progress

REFERENCES = ["the cat sat on the mat .", "a cat sat there ."]
TEXT = "the cat sat on a mat. the end"
ENDS = [0, 3, 7, 9, 11, 14, 16, 20, 21, 25, 29]
REWARDS = [
    BLEU(),
    GLEU(),
    ChrF(),
    Rouge("rougeL"),
    ExactMatch(),
    TokenF1(),
    EditSimilarity(),
    Length(5),
    Keywords(["cat", "dog"]),
]
COLUMNS = {"references": [REFERENCES]}


def of_one(reward: object, text: str, ends: list[int]) -> list[list[float]]:
    """Returns the progress of one text."""
    [rows] = join_progress([reward], [Prefixes(text, ends)], prompts=["p"], **COLUMNS)  # type: ignore[list-item]
    return rows


def matches(words: list[str], references: list[list[str]], order: int) -> tuple[int, int, int]:
    """Returns the n-grams that match, those of the text, those of the references: counted anew."""

    def count(units: list[str]) -> Counter[tuple[str, ...]]:
        return Counter(tuple(units[i : i + order]) for i in range(len(units) - order + 1))

    allowed: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        allowed |= count(reference)
    return (count(words) & allowed).total(), count(words).total(), allowed.total()


def test_numbers_worked_by_hand() -> None:
    """Of "the cat" against 7 and 5 words: 2 of 2 unigrams match, 1 of 1 bigram, of 9 and 9 in the references."""
    [row] = overlap_progress([Prefixes("the cat on", [7])], [REFERENCES], str.split)[0]
    assert row[:3] == [2, 6.0, 2 / 6]
    assert row[3:7] == [1.0, 2 / 9, 1.0, 1 / 9]
    assert row[7:11] == [0.0, 0.0, 0.0, 0.0]
    assert row[11:13] == [1.0, math.exp(1 - 5 / 2)]
    assert row[13:16] == [2 / 5, 0, 2 / 7]
    assert row[16:] == [7 / 24, 1.0]


@pytest.mark.parametrize("end", ENDS)
def test_counts_are_those_of_the_text_so_far_counted_anew(end: int) -> None:
    [rows] = overlap_progress([Prefixes(TEXT, ENDS)], [REFERENCES], str.split)
    row = rows[ENDS.index(end)]
    words = TEXT[:end].split()
    assert row[0] == len(words)
    for order in range(1, 5):
        hits, total, of_references = matches(words, [text.split() for text in REFERENCES], order)
        assert row[1 + 2 * order : 3 + 2 * order] == [hits / max(total, 1), hits / of_references]


@pytest.mark.parametrize("reward", REWARDS, ids=repr)
def test_numbers_depend_on_the_text_so_far_alone(reward: object) -> None:
    """Else a value would depend on the token that it is the baseline of, and the gradient would be biased."""
    continued = [TEXT[:end] + rest for end in ENDS for rest in ("", "s", " more words", ".")]
    known = of_one(reward, TEXT, ENDS)
    for text, end in zip(continued, [end for end in ENDS for _ in range(4)], strict=True):
        place = ENDS.index(end)
        assert of_one(reward, text, ENDS[: place + 1])[place] == known[place]


@pytest.mark.parametrize("reward", [Length(5), Keywords(["cat", "dog"])], ids=repr)
def test_rewards_of_the_text_alone_give_what_it_would_get_if_it_ended(reward: Length | Keywords) -> None:
    expected = [reward(completions=[TEXT[:end]], **COLUMNS) for end in ENDS]
    assert of_one(reward, TEXT, ENDS) == expected


def test_a_combination_has_the_numbers_of_its_parts() -> None:
    mixed = 0.5 * BLEU() + Clipped(Length(5), 0.0, 0.5)
    parts = [of_one(BLEU(), TEXT, ENDS), of_one(Length(5), TEXT, ENDS)]
    assert of_one(mixed, TEXT, ENDS) == [[*a, *b] for a, b in zip(*parts, strict=True)]


def test_a_function_without_progress_adds_none() -> None:
    assert of_one(len, TEXT, ENDS) == [[] for _ in ENDS]


def test_a_progress_of_another_shape_is_refused() -> None:
    class Wrong:
        def progress(self, **inputs: object) -> list[list[list[float]]]:
            return [[[1.0]]]

    with pytest.raises(ValueError, match=r"`progress` of the reward 'Wrong' must have as many .* 11 tokens"):
        of_one(Wrong(), TEXT, ENDS)
