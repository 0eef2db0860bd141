"""N-grams of a batch of texts and references are counted as one by one."""

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmrl.progress import ngram_totals, ngram_totals_of_references, ngrams, shared_ngrams
from lmrl.rewards.corpus import corpus_counts
from lmrl.rewards.grams import all_ngrams

ORDER = 3
text = st.text("abc", max_size=8)
references = st.lists(text, min_size=1, max_size=3)
documents = st.lists(st.lists(text.map(list), min_size=1, max_size=3), max_size=4)
WIDE = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))


def counted(text, order=ORDER):
    return Counter(tuple(text[i : i + n]) for n in range(1, order + 1) for i in range(len(text) - n + 1))


def by_length(counts, order=ORDER):
    return [sum(count for gram, count in counts.items() if len(gram) == n) for n in range(1, order + 1)]


def expected(texts, of_texts, order=ORDER):
    width = max(map(len, of_texts))
    rows = []
    for text, of_text in zip(texts, of_texts, strict=True):
        row = [by_length(counted(text, order) & counted(reference, order), order) for reference in of_text]
        rows.append(row + [[0] * order] * (width - len(of_text)))
    return rows


@given(st.lists(st.tuples(st.lists(text, min_size=1, max_size=3), references), min_size=1, max_size=4))
@example([(["ab"], ["", "ab"]), (["", "abc"], ["abcabc"])])
def test_texts_share_with_each_reference_the_ngrams_of_both(groups):
    texts = [text for of_group, _ in groups for text in of_group]
    of_texts = [of_group for texts_of_group, of_group in groups for _ in texts_of_group]
    assert shared_ngrams(texts, of_texts, ORDER).tolist() == expected(texts, of_texts)
    for text, of_text in zip(texts, of_texts, strict=True):
        assert shared_ngrams([text], [of_text], ORDER).tolist() == expected([text], [of_text])


@given(text, references)
def test_references_together_have_the_larger_count_of_each_ngram(given_text, of_text):
    most = counted("")
    for reference in of_text:
        most |= counted(reference)
    got = shared_ngrams([given_text, ""], [of_text, of_text], ORDER, together=True).tolist()
    assert got == [[by_length(counted(given_text) & most)], [[0] * ORDER]]


@given(references)
def test_ngrams_of_all_lengths_are_totalled(given_texts):
    totals = [[max(len(text) - n, 0) for n in range(ORDER)] for text in given_texts]
    assert ngram_totals(given_texts, ORDER).tolist() == totals
    assert ngram_totals_of_references([given_texts, ["ab"]], ORDER)[0].tolist() == totals
    assert ngram_totals_of_references([["ab"], ["a", "abc"]], 2).tolist() == [[[2, 1], [0, 0]], [[1, 0], [3, 2]]]
    assert Counter(all_ngrams(given_texts[0], ORDER)) == counted(given_texts[0])


@pytest.mark.parametrize("most_symbols", [1, 40, 10**6])
def test_any_number_of_texts_and_of_symbols_is_counted_alike(monkeypatch, most_symbols):
    monkeypatch.setattr(ngrams, "_MOST_SYMBOLS", most_symbols)
    texts = [WIDE[5:15], WIDE[:9] * 2, "x", WIDE[2000:]]
    of_texts = [[WIDE, "xyz"], [WIDE[:9]], ["x", "", "xx"], [WIDE]]
    assert shared_ngrams(texts, of_texts, 6).tolist() == expected(texts, of_texts, 6)


@given(documents)
def test_a_corpus_counts_occurrences_or_documents(given_documents):
    occurrences = sum((counted(text) for texts in given_documents for text in texts), Counter())
    owners = Counter(gram for texts in given_documents for gram in {g for text in texts for g in counted(text)})
    for once, found in ((False, occurrences), (True, owners)):
        often = {gram: count for gram, count in found.items() if count > 1}
        assert corpus_counts(given_documents, ORDER, once) == often
