"""Matching of evaluations of the same rows in another order."""

import pytest

from lmrl.evaluation import Completion, Evaluation, SideBySide, compare_evaluations
from lmrl.evaluation.matching import matched
from lmrl.evaluation.scores import Score, mean_score


def evaluation(ids, samples=1):
    """Of each row the id is its text and its score."""
    values = [float(name) for name in ids]
    completions = [Completion(row, s, f"{name}.{s}", 1, True) for row, name in enumerate(ids) for s in range(samples)]
    scores = {"r": mean_score("r", "s", values, True), "distinct1": Score("distinct1", 0.5, "s", None, True)}
    return Evaluation(completions, scores, {}, list(ids))


@pytest.mark.parametrize("samples", [1, 2])
def test_rows_in_another_order_are_put_into_that_of_the_first(samples):
    first, other = evaluation("123", samples), evaluation("312", samples)
    assert first != other
    assert matched({"a": first, "b": other}) == {"a": first, "b": first}


def test_evaluations_without_row_ids_are_left_as_they_are():
    known, old = evaluation("123"), evaluation("312")
    old.row_ids.clear()
    assert matched({"a": known, "b": old})["b"] is old and matched({"b": old, "a": known})["a"] is known
    assert matched({}) == {}


def test_evaluations_of_other_rows_raise():
    with pytest.raises(ValueError, match="got 3 rows of 'b', of which 2 are among the 3 of 'a'"):
        matched({"a": evaluation("123"), "b": evaluation("124")})
    with pytest.raises(ValueError, match="got 2 rows of 'b', of which 2 are among the 3 of 'a'"):
        matched({"a": evaluation("123"), "b": evaluation("12")})


def test_a_comparison_and_a_view_side_by_side_match_the_rows():
    first, other = evaluation("123"), evaluation("312")
    found = compare_evaluations({"a": first, "b": other}, primary=["r"])["b"]["r"]
    assert (found.effect, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    shown = SideBySide({"a": first, "b": other}, [{"prompt": name} for name in "123"])
    texts = [[pieces for _, _, pieces, _ in sample["texts"]] for sample in shown.found["samples"]]
    assert texts == [[[(f"{name}.0", False)]] * 2 for name in "123"]
    for refusing in (compare_evaluations, lambda evaluations: SideBySide(evaluations, [{"prompt": "p"}] * 3)):
        with pytest.raises(ValueError, match="got 3 rows of 'b', of which 2 are among the 3 of 'a'"):
            refusing({"a": first, "b": evaluation("124")})
