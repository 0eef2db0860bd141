"""Texts that several files of this folder compare scores on."""

import random
import string

import pytest

# The degenerate first: (completion, references).
CASES = [
    ("", ["the cat"]),
    ("", [""]),
    ("the cat", [""]),
    ("   ", ["the cat"]),
    ("\n\t ", [" ", "a b"]),
    ("a", ["a"]),
    ("a", ["b"]),
    ("a", ["a b c d e f"]),
    (".", ["."]),
    ("?!.,", ["?!.", "..."]),
    ("& &amp; &lt;", ["& < &quot;"]),
    ("the the the the", ["the cat the mat", "the the"]),
    ("no overlap at all", ["quite other words"]),
    ("the cat sat on the mat", ["the cat sat on the mat"]),
    ("the cat", ["the cat sat on the mat", "a cat", "cat"]),
    ("the cat sat on the mat and then it left the house", ["the cat sat"]),
    ("The price is 1,000.50 pounds.", ["the price is 1,000.50 pounds .", "Price: 1,000.50"]),
    ("well-known (hi) 'quoted' 3-4", ["well known (hi) quoted 3 - 4"]),
    ("Café Adriatic, naïve — “déjà vu”", ["Cafe Adriatic, naive", "Café Adriatic — déjà vu"]),
    ("我喜欢猫。", ["我喜欢狗。", "猫"]),
    ("İstanbul ǅ ﬁne ß", ["istanbul ǆ fine SS"]),
    ("😀😀 ok", ["😀 ok"]),
    ("running runs ran flies", ["run running fly flies", "runs"]),
    ("w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", ["w1 w2 w3 w4 w5"]),
    ("a b c\n\n b a\n...", ["c b a\na b", "a b c", "\n"]),
    ("b a b\na a", ["a b a b\nb b a", "a b\nb a\na b a"]),
]


def _random_case(rng: random.Random) -> tuple[str, list[str]]:
    """Few words and many repetitions, so that clipping, ties between subsequences and empty lines come up."""
    marks = [".", ",", "-", "'", "&", "é", "\n", "\n", "7", "1.5"]
    words = [*rng.sample(string.ascii_lowercase, 3), "running", "flies", *rng.sample(marks, 3)]

    def text() -> str:
        return rng.choice(["", " "]).join(rng.choices(words, k=rng.randrange(15)))

    return text(), [text() for _ in range(rng.randint(1, 4))]


@pytest.fixture(scope="session")
def cases() -> list[tuple[str, list[str]]]:
    """Returns the cases above and 300 random ones."""
    rng = random.Random(0)
    return CASES + [_random_case(rng) for _ in range(300)]
