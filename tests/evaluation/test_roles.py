"""Which metrics are tested: the rewards' total and held-out measures of quality, each once."""

from lmrl.evaluation import Evaluation
from lmrl.evaluation.roles import primary_metrics, split_by_role
from lmrl.evaluation.scores import mean_score

DIRECTIONS = {"length": None, "kl": None, "ter": False, "perplexity": False, "repetition": False}


def evaluation(*names):
    scores = {
        name: mean_score(name, "s", [index + 1.0, index + 2.0], DIRECTIONS.get(name, True))
        for index, name in enumerate(names)
    }
    return {"before": Evaluation([], scores, {})}


def test_the_total_and_five_measures_of_quality_that_were_not_trained_on_are_primary():
    names = ("reward", "bleu", "bleu_e2e", "nist", "chrf", "ter", "rouge1", "rouge2", "rougeL", "meteor", "cider")
    more = ("repetition", "length", "perplexity", "kl", "reward/bleu", "reward/rouge1", "reward/added")
    found = primary_metrics(evaluation(*names, *more), ["bleu", "rouge1"])
    assert found == ["reward", "reward/added", "rougeL", "chrf", "meteor", "cider"]


def test_one_reward_is_its_own_total_and_no_metric_is_tested_twice():
    found = evaluation("bleu", "rougeL", "rougeLsum", "reward/bleu", "reward/rougeL", "length", "kl")
    (scores,) = (each.scores for each in found.values())
    scores["rougeLsum"] = mean_score("rougeLsum", "s", scores["rougeL"].row_scores, True)
    assert primary_metrics(found, ["bleu"]) == ["reward/bleu", "reward/rougeL"]
    del scores["reward/rougeL"]
    assert primary_metrics(found, ["bleu"]) == ["reward/bleu", "rougeL"]
    assert split_by_role(scores, {}) == (list(scores), [])
