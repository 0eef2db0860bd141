"""Tables of n-grams hold what counting them one by one gives."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lmrl.rewards.grams import GramTable, corpus_counts

ORDER = 3
texts = st.lists(st.text("abc", max_size=8), min_size=1, max_size=5)
documents = st.lists(st.lists(st.text("abc", max_size=8).map(list), min_size=1, max_size=3), max_size=4)
WIDE = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))


def counted(text, order=ORDER):
    return Counter(tuple(text[i : i + n]) for n in range(1, order + 1) for i in range(len(text) - n + 1))


def columns(table):
    grams = table.grams(np.arange(len(table.counts)))
    return [{gram: n for gram, n in zip(grams, column, strict=True) if n} for column in table.counts.T.tolist()]


@given(texts)
def test_a_table_counts_the_ngrams_of_each_text(given_texts):
    table = GramTable(given_texts, ORDER)
    assert columns(table) == [counted(text) for text in given_texts]
    assert table.totals.T.tolist() == [[max(len(text) - n, 0) for n in range(ORDER)] for text in given_texts]


@given(texts, st.text("abcd", max_size=8))
def test_the_ngrams_shared_with_a_text_are_those_of_both(given_texts, text):
    table = GramTable(given_texts, ORDER)
    rows, counts = table.shared(text)
    both = counted(text).keys() & {gram for other in given_texts for gram in counted(other)}
    assert dict(zip(table.grams(rows), counts.tolist(), strict=True)) == {gram: counted(text)[gram] for gram in both}
    for n, part in enumerate(table.split(rows), start=1):
        assert set(map(len, table.grams(rows[part]))) <= {n}


def test_a_text_may_be_shorter_than_the_longest_ngrams():
    assert columns(GramTable(["ab", ""], 6)) == [counted("ab", 6), {}]
    assert GramTable(["abc"], 6).shared("ab").counts.tolist() == [1, 1, 1]


def test_ngrams_of_thousands_of_symbols_are_counted_too():
    table = GramTable([WIDE, WIDE[:9] * 2], 6)
    assert columns(table) == [counted(WIDE, 6), counted(WIDE[:9] * 2, 6)]
    rows, counts = table.shared("x" + WIDE[5:15])
    assert dict(zip(table.grams(rows), counts.tolist(), strict=True)) == counted(WIDE[5:15], 6)


@given(documents)
def test_a_corpus_counts_occurrences_or_documents(given_documents):
    occurrences = sum((counted(text) for texts in given_documents for text in texts), Counter())
    owners = Counter(gram for texts in given_documents for gram in {g for text in texts for g in counted(text)})
    for once, expected in ((False, occurrences), (True, owners)):
        often = {gram: count for gram, count in expected.items() if count > 1}
        assert corpus_counts(given_documents, ORDER, once) == often
