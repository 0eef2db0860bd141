"""The edits and moves that TER counts are sacrebleu's, up to its limits and beyond them."""

import json
import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance.Levenshtein import distance
from sacrebleu.metrics.lib_ter import translation_edit_rate
from sacrebleu.metrics.ter import TER as SacreTER

from lmrl.rewards import TER
from lmrl.rewards.ter import edits


def counted(completion, reference, best=math.inf):
    more, fewer = Counter(completion) - Counter(reference), Counter(reference) - Counter(completion)
    return edits(completion, reference, max(more.total(), fewer.total()), best)


def of_sacrebleu(completion, reference):
    return translation_edit_rate(list(completion), list(reference))[0]


def disturbed(generator, words, moves, changes):
    words = list(words)
    for _ in range(moves):
        first, last = sorted(generator.choices(range(len(words) + 1), k=2))
        run, rest = words[first:last], words[:first] + words[last:]
        place = generator.randint(0, len(rest))
        words = rest[:place] + run + rest[place:]
    for _ in range(changes):
        place = generator.randint(0, len(words))
        words[place : place + generator.randint(0, 1)] = generator.choice([[], ["new"], words[:1]])
    return words


@settings(max_examples=300)
@given(st.lists(st.sampled_from("abcd"), max_size=14), st.lists(st.sampled_from("abcd"), max_size=14))
def test_edits_are_those_of_sacrebleu_for_few_words_often_repeated(completion, reference):
    assert counted(completion, reference) == of_sacrebleu(completion, reference)


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from("abcdefgh"), max_size=16),
    st.integers(0, 4),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_edits_are_those_of_sacrebleu_where_runs_of_words_have_moved(reference, moves, changes, generator):
    completion = disturbed(generator, reference, moves, changes)
    assert counted(completion, reference) == of_sacrebleu(completion, reference)


@given(st.permutations("abcdefghij"), st.integers(0, 12))
def test_a_search_that_stops_early_never_ends_below_the_best_so_far(completion, best):
    assert min(counted(completion, "abcdefghij", best), best) == min(of_sacrebleu(completion, "abcdefghij"), best)


def test_edits_and_lengths_are_those_of_sacrebleu_for_e2e(data_dir):
    lines = (data_dir / "data/e2e/dev.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    references = [row["references"][:3] for row in map(json.loads, lines)]
    completions = [" ".join(disturbed(random.Random(k), rows[-1].split(), 2, 1)) for k, rows in enumerate(references)]
    library = SacreTER()
    expected = [library.sentence_score(*case) for case in zip(completions, references, strict=True)]
    expected = [[score.num_edits, score.ref_length] for score in expected]
    assert TER().statistics(completions, references) == expected


@pytest.mark.parametrize(("far", "expected"), [(50, 1), (51, 4)])
def test_a_run_moves_by_at_most_fifty_places(far, expected):
    words = [str(k) for k in range(far)]
    completion, reference = ["x", "y", *words], [*words, "x", "y"]
    assert counted(completion, reference) == of_sacrebleu(completion, reference) == expected


@pytest.mark.parametrize(("words", "expected"), [(10, 1), (11, 2), (20, 2), (21, 3)])
def test_at_most_ten_words_move_together(words, expected):
    run, others = [f"run{k}" for k in range(words)], [str(k) for k in range(24)]
    completion, reference = run + others, others + run
    assert counted(completion, reference) == of_sacrebleu(completion, reference) == expected


@pytest.mark.parametrize(("more", "expected"), [(24, 24), (25, 25), (26, 28), (40, 49)])
def test_edits_beyond_the_beam_are_those_inside_it_as_in_sacrebleu(more, expected):
    end = [str(k) for k in range(more)]
    reference = [f"new{k}" for k in range(more)] + end
    assert counted(end, reference) == of_sacrebleu(end, reference) == expected


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("dropped", "beyond"), [(8, False), (30, True)])
def test_edits_of_long_texts_are_those_of_sacrebleu_on_both_sides_of_its_beam(dropped, beyond, seed):
    generator = random.Random(seed)
    reference = generator.choices("abcdefghijklmnop", k=44)
    completion = disturbed(generator, reference[dropped:], 2, 2)
    assert (distance(completion, reference) + abs(len(reference) - len(completion)) > 48) == beyond
    assert counted(completion, reference) == of_sacrebleu(completion, reference)


def test_moves_are_no_longer_made_once_a_thousand_were_tried():
    completion, reference = "bbbbbbbbabaaabbaaaaabaab", "bbaaabbaaaaabaabbbbbbbba"
    assert counted(completion, reference) == of_sacrebleu(completion, reference) == 13  # one move would do


def test_a_text_equals_itself_also_where_sacrebleu_normalizes_references_twice() -> None:
    """The second time "John's ." becomes "John 's .", which is two edits of five words."""
    text = "This is John's."
    assert TER(normalized=True)(completions=[text], references=[text]) == [1.0]
    assert SacreTER(normalized=True).sentence_score(text, [text]).score == pytest.approx(40.0)
