"""What rewards know of unfinished texts: never more than the text so far, and what it would get if it ended there."""

import math
import random

import pytest

from lmrl.progress import Overlap, Prefixes, join_progress
from lmrl.rewards import (
    BLEU,
    GLEU,
    METEOR,
    TER,
    ChrF,
    CIDErD,
    Clipped,
    DistinctN,
    EditSimilarity,
    ExactMatch,
    Format,
    Gate,
    InWorkers,
    Keywords,
    Length,
    LengthPenalty,
    Minimum,
    Normalized,
    Retried,
    Reward,
    Rouge,
    SlotCoverage,
    Threshold,
    TokenF1,
)

REFERENCES = ["the cat sat on the mat .", "a cat sat there ."]
TEXT = "the cat sat on a mat. the end"
ENDS = [0, 3, 7, 9, 11, 14, 16, 20, 21, 25, 29]
COLUMNS = {"references": [REFERENCES], "mr": ["who[cat], where[on a mat], what[sat there]"]}

AS_IF_ENDED = [
    BLEU(),
    BLEU(tokenize="char"),
    BLEU(smooth_method="add-k", effective_order=False),
    GLEU(),
    ChrF(),
    ChrF(word_order=2, lowercase=True),
    ChrF(char_order=0, word_order=3),
    Rouge("rouge1", use_stemmer=True),
    Rouge("rouge6", tokenize="13a"),
    Rouge("rougeL", aggregate="mean"),
    ExactMatch(normalize="squad"),
    TokenF1(),
    EditSimilarity(),
    EditSimilarity(unit="words"),
    Length(5),
    LengthPenalty(9, 20, unit="characters"),
    DistinctN(2),
    Format("[Ta].*", ignore_case=True),
    Keywords(["cat", "a a", "aaa"], forbidden=["mat"]),
    Keywords(["ca", "a a"], whole_words=False),
    Keywords(["walk", "cat"], stemmer="porter"),
    SlotCoverage(),
    0.5 * BLEU() + Clipped(Length(5), 0.0, 0.5),
    1 - DistinctN() * TokenF1(),
    Minimum([TokenF1(), Length(3)]),
    Gate(BLEU(), when=Length(4)),
    Threshold(TokenF1(), 0.5),
    Retried(GLEU()),
]
OTHERS = [METEOR(), TER(), CIDErD(corpus=[["a cat"], ["the mat"]]), Normalized(BLEU()), Rouge("rougeLsum")]
SAMPLE = "a cat cats sat the mat. on, The U.S. 3.5 don't aa aaa naïve 猫が city  centre\n there ."
WORDS = SAMPLE.split(" ")


def of_one(reward: object, text: str, ends: list[int]) -> list[list[float]]:
    """Returns the progress of one text."""
    [rows] = join_progress([reward], [Prefixes(text, ends)], prompts=["p"], **COLUMNS)  # type: ignore[list-item]
    return rows


def drawn_texts(seed: int, rows: int) -> tuple[list[Prefixes], dict[str, list[object]]]:
    """Returns texts that are cut anywhere, inside a word too, some of them empty, and references for pairs of them."""
    rng = random.Random(seed)
    columns: dict[str, list[object]] = {"references": [], "mr": COLUMNS["mr"] * rows}
    prefixes = []
    for row in range(rows):
        text = " ".join(rng.choices(WORDS, k=rng.randrange(10))) + rng.choice(["", " ", "\n"])
        ends = [0]
        while ends[-1] < len(text):
            ends.append(min(len(text), ends[-1] + rng.randrange(4)))
        prefixes.append(Prefixes(text, ends))
        if row % 2 == 0:
            references = [" ".join(rng.choices(WORDS, k=rng.randrange(8))) for _ in range(rng.randrange(1, 4))]
        columns["references"].append(references)
    return prefixes, columns


def test_numbers_worked_by_hand() -> None:
    """Of "the cat" against 7 and 5 words: 2 of 2 unigrams match, 1 of 1 bigram, of 9 and 9 in the references."""
    [row] = Overlap.of_units([Prefixes("the cat on", [7])], [tuple(REFERENCES)], str.split).progress(None)[0]
    assert row[:3] == [2, 6.0, 2 / 6]
    assert row[3:7] == [1.0, 2 / 9, 1.0, 1 / 9]
    assert row[7:11] == [0.0, 0.0, 0.0, 0.0]
    assert row[11:13] == pytest.approx([1.0, math.exp(1 - 5 / 2)])
    assert row[13:16] == [2 / 5, 0, 2 / 7]
    assert row[16:] == [7 / 24, 1.0]


@pytest.mark.parametrize("reward", AS_IF_ENDED, ids=repr)
@pytest.mark.filterwarnings("ignore:.*reads the letters a-z")
def test_the_potential_is_the_reward_as_if_the_text_ended_there(reward: Reward) -> None:
    """Against the reward of every beginning, scored anew; also at the end, and of a text without any word."""
    assert reward.potential is not None
    prefixes, columns = drawn_texts(seed=0, rows=12)
    rows = [row for row, each in enumerate(prefixes) for _ in each]
    of_texts = {name: [values[row] for row in rows] for name, values in columns.items()}
    texts = [text for each in prefixes for text in each]
    expected = [score or 0.0 for score in reward(completions=texts, prompts=["p"] * len(texts), **of_texts)]
    numbers = reward.progress(prefixes=prefixes, prompts=["p"] * 12, **columns)
    assert [row[reward.potential] for of_row in numbers for row in of_row] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("reward", [*AS_IF_ENDED, *OTHERS], ids=repr)
@pytest.mark.filterwarnings("ignore:.*reads the letters a-z")
def test_numbers_depend_on_the_text_so_far_alone(reward: Reward) -> None:
    """Else a value would depend on the token that it is the baseline of, and the gradient would be biased."""
    places = [place for place in range(len(ENDS)) for _ in range(4)]
    endings = ["", "s", " more words", "."] * len(ENDS)
    cut = [Prefixes(TEXT[: ENDS[k]] + rest, ENDS[: k + 1]) for k, rest in zip(places, endings, strict=True)]
    columns = {name: values * (len(cut) + 1) for name, values in COLUMNS.items()}
    known, *numbers = reward.progress(prefixes=[Prefixes(TEXT, ENDS), *cut], prompts=["p"] * 45, **columns)
    assert known[0], "no numbers"
    for place, of_text in zip(places, numbers, strict=True):
        assert of_text == [pytest.approx(row, abs=1e-12) for row in known[: place + 1]]


def test_a_combination_has_the_numbers_of_its_parts_and_what_it_makes_of_their_potentials() -> None:
    mixed = 0.5 * BLEU() + Clipped(Length(5), 0.0, 0.5)
    numbers = of_one(mixed, TEXT, ENDS)
    parts = [of_one(BLEU(), TEXT, ENDS), of_one(Clipped(Length(5), 0.0, 0.5), TEXT, ENDS)]
    assert [row[:-1] for row in numbers] == [[*a, *b] for a, b in zip(*parts, strict=True)]
    assert [row[-1] for row in numbers] == pytest.approx([0.5 * a[0] + b[-1] for a, b in zip(*parts, strict=True)])


@pytest.mark.parametrize("reward", [0.5 * BLEU() + TER(), len + Length(5), Normalized(BLEU())], ids=repr)
def test_a_combination_of_a_part_without_potential_has_none(reward: Reward) -> None:
    assert reward.potential is None
    assert len(of_one(reward, TEXT, ENDS)[0]) >= 1


def test_a_reward_in_workers_has_the_numbers_of_the_reward() -> None:
    assert of_one(InWorkers(TokenF1()), TEXT, ENDS) == of_one(TokenF1(), TEXT, ENDS)


def test_a_completion_without_tokens_has_no_numbers() -> None:
    for reward in (BLEU(), Length(5), 1 - TokenF1()):
        assert reward.progress(prefixes=[Prefixes("", [])], prompts=["p"], **COLUMNS) == [[]]
        assert reward.progress(prefixes=[], prompts=[], references=[]) == []


def test_a_function_without_progress_adds_none() -> None:
    assert of_one(len, TEXT, ENDS) == [[] for _ in ENDS]


def test_a_progress_of_another_shape_is_refused() -> None:
    class Wrong:
        def progress(self, **inputs: object) -> list[list[list[float]]]:
            return [[[1.0]]]

    with pytest.raises(ValueError, match=r"`progress` of the reward 'Wrong' must have as many .* 11 tokens"):
        of_one(Wrong(), TEXT, ENDS)
