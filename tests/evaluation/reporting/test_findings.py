"""Warnings are given where they apply, with their numbers, and nowhere else."""

import math
from dataclasses import replace

import pytest

from lmrl.evaluation import Completion, Evaluation, Score, compare_all, compare_evaluations, find_warnings
from lmrl.evaluation.roles import is_rewarded
from lmrl.evaluation.scores import mean_score

ROWS = 60
BETTER = {"bleu": True, "reward/bleu": True, "reward/length": True, "rougeL": True, "ter": False, "unfinished": False}
BETTER |= {"reward/rougeL": True, "rougeLsum": True}


def evaluation(decoding=None, distinct2=None, rows=ROWS, **means):
    """Scores whose rows lie closely around their means."""
    scores = {}
    for name, mean in means.items():
        name = name.replace("reward_", "reward/")
        values = [mean + 0.01 * (row % 5 - 2) for row in range(rows)]
        scores[name] = mean_score(name, "s", values, BETTER.get(name))
    if distinct2 is not None:
        scores["distinct2"] = Score("distinct2", distinct2, "s", None, True)
    return Evaluation([Completion(row, 0, "a", 2, True) for row in range(rows)], scores, decoding or {})


def shifted(base, **by):
    """The same scores with row-wise changes around a mean: an interval of some width."""
    scores = dict(base.scores)
    for name, change in by.items():
        name = name.replace("reward_", "reward/")
        values = [old + change * (1 + (row % 3 - 1) / 2) for row, old in enumerate(scores[name].row_scores)]
        scores[name] = mean_score(name, "s", values, scores[name].higher_is_better)
    return Evaluation(base.completions, scores, base.decoding)


def log_of(**series):
    return [{"step": i + 1, **{name: values[i] for name, values in series.items()}} for i in range(20)]


def warnings(before, after=None, **settings):
    return find_warnings({"before": before} | ({} if after is None else {"after": after}), **settings).warnings


BASE = evaluation(bleu=70.0, rougeL=60.0, reward_length=0.5, length=30.0, unfinished=0.02)


def test_a_reward_that_rises_alone_may_be_reward_hacking():
    (sentence,) = warnings(BASE, shifted(BASE, reward_length=0.2, rougeL=-3.0))
    assert sentence.startswith("after: the reward rose (reward/length +0.2000 [")
    assert "none of the 2 held-out metrics improved (bleu +0.00 [+0.00, +0.00], rougeL -3.00 [" in sentence


def test_a_reward_that_is_no_primary_metric_may_have_been_gamed_too():
    pair = {"before": BASE, "after": shifted(BASE, reward_length=0.2, rougeL=-3.0)}
    compared = compare_evaluations(pair, ["length"], ["rougeL"])
    (sentence,) = find_warnings(pair, rewarded=["length"], compared=compared).warnings
    assert sentence.startswith("after: the reward rose (reward/length +0.2000 [")


def test_a_reward_that_rises_with_one_metric_is_no_warning():
    assert warnings(BASE, shifted(BASE, reward_length=0.2, rougeL=1.0)) == []


def test_a_reward_whose_interval_includes_0_is_no_warning():
    uncertain = shifted(BASE, rougeL=-3.0)
    values = [0.5 + (0.4 if row % 2 else -0.38) for row in range(ROWS)]
    uncertain.scores["reward/length"] = mean_score("reward/length", "s", values, True)
    assert warnings(BASE, uncertain) == []


def test_a_metric_for_which_lower_is_better_improves_by_falling():
    base = evaluation(reward_length=0.5, ter=40.0)
    assert len(warnings(base, shifted(base, reward_length=0.2, ter=5.0))) == 1
    assert warnings(base, shifted(base, reward_length=0.2, ter=-5.0)) == []


def test_a_metric_that_was_trained_on_does_not_count_as_held_out():
    base = evaluation(reward_bleu=0.7, bleu=70.0, rougeL=60.0)
    after = shifted(base, reward_bleu=0.1, bleu=5.0)
    (sentence,) = warnings(base, after)
    assert "the held-out metric did not improve (rougeL" in sentence
    assert warnings(base, after, rewarded=["something_else"]) == []  # measured, and not trained on


def test_the_rouge_of_one_line_under_its_second_name_is_not_held_out():
    base = evaluation(reward_rougeL=0.6, rougeL=60.0, rougeLsum=60.0, bleu=70.0)
    gamed = shifted(base, reward_rougeL=0.1, rougeL=10.0, rougeLsum=10.0, bleu=-20.0)
    (sentence,) = warnings(base, gamed)
    assert "but the held-out metric did not improve (bleu -20.00 [" in sentence


@pytest.mark.parametrize(
    ("name", "rewarded", "expected"),
    [
        ("reward/bleu", ["bleu"], True),
        ("bleu_e2e", ["bleu"], True),
        ("rouge1", ["rougeL"], False),
        ("rougeLsum", ["bleu", "rougeL"], True),
        ("reward/rougeL", ["rougeLsum"], True),
        ("rougeLsum", ["rouge1"], False),
        ("reward/length", ["bleu"], False),
        ("bleu", [], False),
    ],
)
def test_scores_that_were_trained_on_are_recognized_by_their_names(name, rewarded, expected):
    assert is_rewarded(name, rewarded) is expected


def test_diversity_below_70_percent_is_a_collapse():
    before, kept, lost = evaluation(distinct2=0.5), evaluation(distinct2=0.35), evaluation(distinct2=0.34)
    assert warnings(before, kept) == []
    assert warnings(before, lost) == ["after: completions are less diverse (distinct2 0.5000 → 0.3400, -32 %)."]
    fewer = evaluation(distinct2=0.1, rows=ROWS - 1)  # distinct-n depends on the size of a corpus
    before.scores["length"] = mean_score("length", "s", [30.0] * ROWS, None)
    assert "diversity" in find_warnings({"before": before, "after": fewer}).unchecked


def test_a_length_changed_by_more_than_a_quarter_is_a_warning():
    assert warnings(BASE, shifted(BASE, length=7.4)) == []
    (longer,) = warnings(BASE, shifted(BASE, length=9.0))
    assert longer.startswith("after: completions are 30 % longer (30.00 → 39.00 tokens)")
    (shorter,) = warnings(BASE, shifted(BASE, length=-9.0))
    assert shorter.startswith("after: completions are 30 % shorter (30.00 → 21.00 tokens)")


def test_lengths_in_other_units_are_other_settings_and_no_change_of_length():
    longer = shifted(BASE, length=30.0)
    longer.scores["length"] = replace(longer.scores["length"], signature="s|tokenizer:after")
    found = find_warnings({"before": BASE, "after": longer})
    assert found.warnings == [
        "after and before were evaluated with different settings (length). Compare the signatures."
    ]
    assert "length" in found.unchecked


def test_a_change_of_length_whose_interval_includes_0_is_no_warning():
    noisy = dict(BASE.scores)
    noisy["length"] = mean_score("length", "s", [300.0] + [25.0] * (ROWS - 1), None)
    assert warnings(BASE, Evaluation(BASE.completions, noisy, {})) == []


def test_a_change_of_length_that_may_be_chance_is_no_warning():
    for rows, count in ((4, 0), (6, 1)):  # that are 240 tokens longer, of 60 rows: p is 2/16 and 2/64
        values = [270.0] * rows + [30.0] * (ROWS - rows)
        changed = {**BASE.scores, "length": mean_score("length", "s", values, None)}
        length = BASE.scores | {"length": mean_score("length", "s", [30.0] * ROWS, None)}
        before, after = (Evaluation(BASE.completions, scores, {}) for scores in (length, changed))
        assert len(warnings(before, after)) == count


def test_a_reward_is_compared_with_held_out_metrics_on_at_least_50_rows():
    """With fewer, that nothing else improved does not mean much."""
    for rows, count in ((49, 0), (50, 1)):
        base = evaluation(bleu=70.0, rougeL=60.0, reward_length=0.5, rows=rows)
        found = find_warnings({"before": base, "after": shifted(base, reward_length=0.2)})
        assert len(found.warnings) == count
        assert "reward against held-out metrics" in (found.checked if count else found.few_rows)


def test_what_speaks_against_gaming_need_not_pass_the_test_of_many_comparisons():
    base = evaluation(reward_length=0.5, bleu=70.0, rougeL=60.0, chrf=50.0, ter=40.0, meteor=50.0)
    after = shifted(base, reward_length=0.2)
    values = [70.0 + 3 * (row < 6) for row in range(ROWS)]  # p is 2/64
    better = after.scores | {"bleu": mean_score("bleu", "s", values, True)}
    base.scores["bleu"] = mean_score("bleu", "s", [70.0] * ROWS, True)
    assert len(warnings(base, after)) == 1
    assert warnings(base, Evaluation(base.completions, better, {})) == []


def test_a_constant_reward_has_not_risen_and_the_same_model_twice_is_the_same():
    base = evaluation(reward_length=0.5, bleu=70.0, rougeL=60.0, length=30.0)
    found = find_warnings({"one": base, "two": base})
    assert found.warnings == [] and "reward against held-out metrics" in found.checked
    constant = mean_score("reward/length", "s", [1.0] * ROWS, True)
    before, after = (
        Evaluation(base.completions, {**base.scores, **scores, "reward/length": constant}, {})
        for scores in ({}, shifted(base, bleu=-3.0).scores)
    )
    assert warnings(before, after) == []
    compared = compare_all({"before": before.scores, "after": after.scores})["after"]
    assert compared["reward/length"].p_value == 1 and not compared["reward/length"].significant
    assert {found.p_corrected for found in compare_all({"a": base.scores, "b": base.scores})["b"].values()} == {1.0}


def test_many_unfinished_completions_are_a_warning_if_there_were_fewer_before():
    few, many = evaluation(unfinished=0.02), evaluation(unfinished=0.3)
    (sentence,) = warnings(few, many)
    assert sentence.startswith("after: 30.0 % of the completions are unfinished (before: 2.0 %)")
    assert warnings(many, evaluation(unfinished=0.25)) == []
    (alone,) = warnings(many)
    assert alone.startswith("before: 30.0 % of the completions are unfinished. They were cut at max_new_tokens")


def test_entropy_is_compared_between_the_ends_of_a_log():
    collapsed = log_of(entropy=[2.0] * 10 + [0.4] * 10)
    (sentence,) = warnings(BASE, logs={"run": collapsed})
    assert sentence.startswith("run: entropy collapsed to 20 % of its initial value (2.00 → 0.4000 nats per token")
    assert warnings(BASE, logs={"run": log_of(entropy=[2.0] * 10 + [0.5] * 10)}) == []


def test_a_kl_above_the_bound_is_a_warning_for_logs_and_for_scores():
    far = log_of(kl_per_sequence=[0.0] * 10 + [12.0] * 10)
    assert warnings(BASE, logs={"run": far}) == [
        "run (end of training): the KL to the reference is 12.00 nats per completion, more than 10."
    ]
    assert warnings(BASE, logs={"run": far}, kl_bound=12.0) == []
    assert warnings(evaluation(kl=0.0), evaluation(kl=11.0)) == [
        "after: the KL to the reference is 11.00 nats per completion, more than 10."
    ]
    assert warnings(evaluation(kl=11.0)) == [  # as of any checkpoint with which others are compared
        "before: the KL to the reference is 11.00 nats per completion, more than 10."
    ]
    assert warnings(evaluation(kl=11.0), evaluation(kl=0.0)) == warnings(evaluation(kl=11.0))


def test_checkpoints_evaluated_with_different_settings_are_a_warning():
    greedy, beams = evaluation({"num_beams": 1, "batch_size": 8}, bleu=1.0), evaluation({"num_beams": 4}, bleu=1.0)
    (sentence,) = warnings(greedy, beams)
    assert sentence == (
        "after and before were evaluated with different settings (decoding: num_beams). Compare the signatures."
    )
    assert warnings(greedy, evaluation({"num_beams": 1, "batch_size": 64}, bleu=1.0)) == []
    assert warnings(greedy, evaluation(bleu=1.0)) == []  # texts from a file: their decoding is not known
    beams.scores["bleu"] = mean_score("bleu", "other", [1.0] * ROWS, True)
    assert "(decoding: num_beams and bleu)" in warnings(greedy, beams)[0]


def test_the_summary_lists_what_was_checked():
    found = find_warnings({"before": BASE, "after": BASE}, logs={"run": log_of(entropy=[1.0] * 20)})
    assert found.warnings == []
    assert found.summary == (
        "No warnings. Checked: equal settings, reward against held-out metrics, length, unfinished completions and "
        "entropy. Not checked, for lack of data: rows trained on, diversity and KL."
    )
    assert find_warnings({"a": Evaluation([], {}, {})}).summary == (
        "Nothing could be checked. Not checked, for lack of data: rows trained on and equal settings."
    )


def test_what_held_out_rows_are_too_few_to_find_is_not_checked():
    def summary(rows, **means):
        base = evaluation(rows=rows, distinct2=0.9, **means)
        return find_warnings({"before": base, "after": base}).summary

    means = {"bleu": 70.0, "reward_length": 0.5, "length": 30.0, "unfinished": 0.02, "kl": 1.0}
    assert summary(2, **means) == (
        "No warnings. Checked: equal settings and KL. Not checked, as that takes 50 held-out rows, and there are 2: "
        "reward against held-out metrics, diversity, length and unfinished completions. "
        "Not checked, for lack of data: rows trained on and entropy."
    )
    assert "length and unfinished completions. Not checked, for lack" in summary(49, **means)
    assert "that takes" not in summary(50, **means)
    found = find_warnings({"before": evaluation(rows=2, unfinished=0.5)})
    assert len(found.warnings) == 1 and "unfinished completions" in found.checked  # what was found, was found


def test_a_report_without_completions_or_rewards_does_not_list_checks_of_them():
    learned = evaluation(accuracy=0.8)
    assert find_warnings({"majority": learned, "classifier": learned}).summary == (
        "No warnings. Checked: equal settings. Not checked, for lack of data: rows trained on."
    )
    warm = evaluation(length=30.0)
    assert find_warnings({"before": warm, "after": warm}).summary == (
        "No warnings. Checked: equal settings and length. "
        "Not checked, for lack of data: rows trained on, diversity, unfinished completions and entropy."
    )


@pytest.mark.parametrize(("explained", "count"), [(0.04, 1), (0.11, 0)])
def test_a_critic_that_explains_almost_nothing_for_20_rollouts_is_a_warning(explained, count):
    """The rollouts before them do not count; steps that serve an earlier rollout log nothing."""
    values = [0.9] * 5 + [explained] * 20
    log = [{"step": 2 * i + 1, "value/explained_variance": value} for i, value in enumerate(values)]
    log += [{"step": 2 * i + 2, "reward": 0.5} for i in range(len(values))]
    found = find_warnings({"before": BASE}, logs={"ppo": log})
    assert found.warnings == count * [
        "ppo: the critic explains almost nothing, 4 % of the variance of returns in the mean over the last 20 "
        "rollouts. REINFORCE with leave-one-out would do the same with less."
    ]
    assert "critic" in found.checked
    early = find_warnings({"before": BASE}, logs={"ppo": log[:19]})
    assert early.warnings == [] and "critic" in early.unchecked
    without = find_warnings({"before": BASE}, logs={"reinforce": log_of(reward=[0.5] * 20)})
    assert "critic" not in (*without.checked, *without.unchecked)


def test_scores_without_rows_or_numbers_give_no_warnings():
    empty = {
        name: mean_score(name, "s", [None] * 3, True) for name in ("bleu", "reward/length", "length", "unfinished")
    }
    nothing = Evaluation([], empty, {})
    assert warnings(nothing, nothing) == warnings(BASE, Evaluation([], {}, {})) == []
    assert warnings(evaluation(distinct2=math.nan), evaluation(distinct2=0.1)) == []
    assert warnings(BASE, logs={"run": [{"step": 1, "entropy": 1.0}]}) == []


def test_a_length_in_words_is_one_of_words():
    before, after = (
        Evaluation(BASE.completions, {"length": mean_score("length", "unit:words", [value] * ROWS, None)}, {})
        for value in (30.0, 45.0)
    )
    assert warnings(before, after) == ["after: completions are 50 % longer (30.00 → 45.00 words)."]
