"""Relative changes: none of a value that is near 0, as a KL before training."""

import re

from lmrl.evaluation import Evaluation, compare_all
from lmrl.evaluation.reporting.figures import change_chart
from lmrl.evaluation.scores import mean_score


def charts(before, after):
    evaluations = {
        label: Evaluation([], {name: mean_score(name, "s", values, None) for name, values in scores.items()}, {})
        for label, scores in (("before", before), ("after", after))
    }
    return change_chart(evaluations, compare_all({label: found.scores for label, found in evaluations.items()}))


def test_a_baseline_near_0_has_no_change_in_percent():
    """The KL of an adapter that changes nothing yet, which rounding makes 7e-8; a rate that is 0 in most rows."""
    before = {"bleu": [50.0, 60.0, 55.0], "kl": [7e-8, 8e-8, 6e-8], "rate": [0.0, 0.0, 1.0]}
    (chart,) = charts(before, {"bleu": [55.0, 66.0, 60.5], "kl": [0.4, 0.5, 0.45], "rate": [1.0, 1.0, 1.0]})
    assert "bleu : +10.00" in chart and "kl :" not in chart and "rate :" not in chart
    assert "% of the value of before, 95 % interval<" in chart and ">without kl and rate: near 0 in before<" in chart
    assert not re.search(r"\d[MG]<", chart)
    (chart,) = charts({"kl": [1.0, 1.1, 1.2]}, {"kl": [9.0, 9.5, 9.7]})
    assert "kl : +" in chart and "near 0" not in chart
    assert charts({"kl": [0.0, 0.0]}, {"kl": [1.0, 2.0]}) == []
