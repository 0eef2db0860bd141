"""Intervals and tests against closed forms and sacrebleu's own."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import sacrebleu
from sacrebleu.significance import PairedTest, estimate_ci

from lmrl.evaluation import (
    Corpus,
    Interval,
    Score,
    bootstrap_interval,
    compare,
    compare_all,
    compare_pairs,
    holm,
    score_completions,
    statistics,
)
from lmrl.evaluation.scores import mean_score, per_prompt, pooled_score
from lmrl.evaluation.statistics import bootstrap_values, swapped_values


def mean(values):
    return mean_score("m", "", values, True)


def known(interval):
    return not math.isnan(interval.low) and not math.isnan(interval.high)


@pytest.mark.parametrize("values", [[], [3.0], [None, 3.0], [None, None]])
def test_the_interval_of_less_than_two_rows_is_unknown(values):
    assert not known(bootstrap_interval(mean(values)))
    comparison = compare(mean(values), mean(values))
    assert all(map(math.isnan, (comparison.low, comparison.high, comparison.p_value, comparison.p_corrected)))
    assert not comparison.significant


def test_one_row_has_an_effect_without_an_interval():
    comparison = compare(mean([3.0]), mean([5.0]))
    assert (comparison.effect, comparison.rows) == (2.0, 1)


def test_rows_that_do_not_add_up_have_an_effect_without_an_interval():
    before, after = (Score("distinct1", value, "", None, True) for value in (0.25, 0.5))
    comparison = compare(before, after)
    assert comparison.effect == 0.25 and comparison.rows == 0
    assert math.isnan(compare(mean([1.0, 2.0]), mean([math.inf, 2.0])).low)
    assert not known(bootstrap_interval(before)) and math.isnan(comparison.p_value)


def test_equal_outputs_have_no_effect_and_a_p_value_of_one():
    corpus = Corpus(["a b c", "d e", ""], [["a b c"], ["d f"], ["g"]], range(3), [1] * 3, [True] * 3)
    scores = score_completions(corpus)
    for score in scores.values():
        if score.pooling is not None and not math.isnan(score.value):
            comparison = compare(score, score)
            assert (comparison.effect, comparison.low, comparison.high) == (0, 0, 0)
            assert comparison.p_value == 1 and not comparison.significant


def test_a_constant_difference_has_the_smallest_p_value_there_is():
    rows = np.random.default_rng(0).normal(0, 100, 200)
    comparison = compare(mean(rows.tolist()), mean((rows + 1).tolist()), samples=500, trials=999)
    assert (comparison.effect, comparison.low, comparison.high) == pytest.approx((1, 1, 1))
    assert comparison.significant
    assert comparison.p_value == comparison.p_corrected == 1 / 1000


def test_rows_without_a_score_in_one_checkpoint_are_left_out_of_both():
    comparison = compare(mean([1.0, None, 2.0, 5.0]), mean([4.0, 9.0, None, 8.0]))
    assert (comparison.effect, comparison.low, comparison.high, comparison.rows) == (3, 3, 3, 2)


@pytest.mark.parametrize(("confidence", "deviations"), [(0.95, 1.959964), (0.68, 0.994458)])
def test_the_interval_of_many_rows_is_the_normal_one(confidence, deviations):
    values = np.random.default_rng(0).normal(2, 3, 400)
    interval = bootstrap_interval(values.tolist(), samples=20_000, confidence=confidence)
    half = deviations * values.std() / math.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02 * 2)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02 * 2)


def test_the_interval_covers_the_true_mean_at_the_rate_of_its_confidence():
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(300):
        interval = bootstrap_interval(generator.normal(5, 1, 50).tolist(), samples=400, seed=trial)
        hits += interval.low <= 5 <= interval.high
    assert 0.90 <= hits / 300 <= 0.98


def test_randomization_has_false_positives_at_the_rate_of_its_level():
    generator = np.random.default_rng(2)
    found = 0
    for trial in range(600):
        before, after = generator.normal(size=(2, 40))
        comparison = compare(mean(before.tolist()), mean(after.tolist()), samples=1, trials=200, seed=trial)
        found += comparison.p_value <= 0.05
    assert 0.03 <= found / 600 <= 0.07


def test_the_p_value_of_few_rows_is_that_of_all_swaps():
    differences = [3.0, 1.0, 2.0, 4.0, -1.0]
    signs = np.array(np.meshgrid(*[[1, -1]] * 5)).reshape(5, -1)
    exact = (np.abs(signs.T @ differences) >= 9).mean()
    p = compare(mean([0.0] * 5), mean(differences), samples=1, trials=100_000).p_value
    assert p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 100_000))


def test_ties_of_trials_are_not_missed_by_the_rounding_of_large_sums():
    """Of 5000 rows 5 differ, all by as much to the same side: as large is the difference in 2 of the 32 swaps."""
    for seed in range(6):
        rows = np.random.default_rng(seed).uniform(20, 90, 5000)
        changed = rows + 0.01 * (np.arange(5000) < 5)
        p = compare(mean(rows.tolist()), mean(changed.tolist()), samples=10, trials=1000).p_value
        assert p == pytest.approx(2 / 32, abs=0.02)


def test_an_infinite_difference_has_no_p_value():
    one, other = (
        pooled_score("perplexity", "", "perplexity", rows, None, False)
        for rows in (
            [[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]],
            [[1.0, 1.0], [math.inf, 1.0], [3.0, 1.0]],
        )
    )
    with np.errstate(invalid="ignore"):
        found = compare(one, other)
    assert found.effect == math.inf and math.isnan(found.p_value) and not found.significant


def test_prompts_with_other_numbers_of_samples_are_paired_as_those_with_equal_ones():
    """Each prompt is better by 1 in each sample: the rows vary far more, which a paired test does not see."""
    rows = np.random.default_rng(0).normal(50, 10, 40)
    one = compare(mean(rows.tolist()), mean((rows + 1).tolist()))
    sampled = per_prompt(mean(np.repeat(rows + 1, 4).tolist()), 4)
    for first, second in ((mean(rows.tolist()), sampled), (sampled, mean(rows.tolist()))):
        found = compare(first, second)
        assert abs(found.effect) == pytest.approx(1) and found.p_value == one.p_value == 1 / 10_001
    texts = ["a b c d e", "b c d e f", "c d e f g", "d e f g h"] * 3
    greedy, better = (
        score_completions(Corpus(made, [[text] for text in texts], range(12), [1] * 12, [True] * 12), ["bleu"])["bleu"]
        for made in ([f"{text[:-2]} z" for text in texts], texts)
    )
    several = per_prompt(
        replace(
            better,
            **{
                name: [value for value in getattr(better, name) for _ in range(3)]
                for name in ("row_scores", "statistics")
            },
        ),
        3,
    )
    assert compare(greedy, several).p_value == pytest.approx(compare(greedy, better).p_value)


def test_equal_samples_of_a_prompt_do_not_narrow_the_interval():
    values = np.random.default_rng(3).normal(size=60)
    samples = per_prompt(mean(np.repeat(values, 8).tolist()), 8)
    got, expected = bootstrap_interval(samples), bootstrap_interval(values.tolist())
    assert (got.value, got.low, got.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_draws_depend_on_the_seed_alone_and_not_on_the_chunks(monkeypatch):
    before, after = np.random.default_rng(0).normal(size=(2, 101)).tolist()
    expected = compare(mean(before), mean(after), trials=1000, seed=3)
    assert compare(mean(before), mean(after), trials=1000, seed=4) != expected
    monkeypatch.setattr(statistics, "_CHUNK", 7000)
    assert compare(mean(before), mean(after), trials=1000, seed=3) == expected


REFERENCES = ["The Eagle is a cheap coffee shop near Burger King.", "In the riverside area, with a low rating."]


@pytest.fixture(scope="module")
def systems():
    """Two systems on 60 rows: one leaves out words of a reference, the other replaces about as many."""
    generator = np.random.default_rng(5)
    words = sorted({word for text in REFERENCES for word in text.split()})
    references, one, other = [], [], []
    for _ in range(60):
        gold = [" ".join(generator.choice(words, size=generator.integers(6, 14))) for _ in range(2)]
        source = gold[0].split()
        references.append(gold)
        one.append(" ".join(word for word in source if generator.random() > 0.2))
        other.append(" ".join(word if generator.random() > 0.17 else "x" for word in source))
    return one, other, references


METRICS = {"bleu": sacrebleu.BLEU(), "chrf": sacrebleu.CHRF(), "ter": sacrebleu.TER()}


def scored(texts, references):
    corpus = Corpus(texts, references, range(len(texts)), [1] * len(texts), [True] * len(texts))
    return score_completions(corpus, list(METRICS))


def sacrebleu_results(systems, kind, samples):
    one, other, references = systems
    streams = [list(stream) for stream in zip(*references, strict=True)]
    test = PairedTest([("one", one), ("other", other)], METRICS, streams, test_type=kind, n_samples=samples)
    _, results = test()
    return dict(zip(METRICS, list(results.values())[1:], strict=True))


def sacrebleu_p_value(differences, effect):
    """Returns the p-value of `--paired-bs`: (1 + #{i: |d_i| - mean |d_j| >= |d|}) / (B + 1)."""
    sizes = np.abs(differences)
    return ((sizes - sizes.mean() >= abs(effect)).sum() + 1) / (len(sizes) + 1)


def test_the_bootstrap_equals_that_of_sacrebleu_draw_for_draw(systems):
    one, other, references = systems
    before, after = scored(one, references), scored(other, references)
    for name, (baseline, result) in sacrebleu_results(systems, "bs", 500).items():
        draws = []
        for score, expected in ((before[name], baseline), (after[name], result)):
            values = bootstrap_values(score.pooling, np.array(score.statistics, dtype=float), samples=500)
            assert score.value == pytest.approx(expected.score, abs=1e-9)
            assert estimate_ci(values) == pytest.approx((expected.mean, expected.ci), abs=1e-4)  # a float32 there
            draws.append(values)
        differences = draws[1] - draws[0]
        assert sacrebleu_p_value(differences, after[name].value - before[name].value) == result.p_value, name
        difference = compare(before[name], after[name], samples=500)
        assert difference.effect == after[name].value - before[name].value
        assert difference.interval[1:] == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=1e-9)


def test_the_randomization_equals_that_of_sacrebleu_swap_for_swap(systems):
    one, other, references = systems
    before, after = scored(one, references), scored(other, references)
    for name, (_, result) in sacrebleu_results(systems, "ar", 2000).items():
        rows = [np.array(score[name].statistics, dtype=float) for score in (before, after)]
        pseudo = swapped_values(before[name].pooling, *rows, trials=2000)
        ties = np.isclose(np.abs(pseudo[0] - pseudo[1]), abs(after[name].value - before[name].value)).sum()
        p = compare(before[name], after[name], trials=2000).p_value
        # The edits of TER are whole numbers, and a trial often has as many as the systems: sacrebleu leaves it out.
        assert (ties > 0) == (name == "ter")
        assert result.p_value <= p <= result.p_value + ties / 2001
        if name != "ter":
            assert p == result.p_value


def test_holm_equals_the_formula_of_the_paper():
    # m p of the smallest, (m - 1) p of the next, ..., never less than the one before, at most 1
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02] and holm([]) == []
    corrected = holm([0.02, math.nan, 0.01])
    assert corrected[0] == pytest.approx(0.02) and corrected[2] == pytest.approx(0.02) and math.isnan(corrected[1])
    with pytest.raises(ValueError, match=r"`p_values` must be in \[0, 1\], got 1.5"):
        holm([1.5])


def test_a_difference_is_significant_by_its_corrected_p_value_and_not_by_its_interval():
    generator = np.random.default_rng(0)
    baseline = {f"m{i}": generator.normal(size=40) for i in range(20)}
    # The first metric rises by 2 standard deviations, the second by 0.4, the others by nothing.
    shifts = [2.0, 0.4] + [0.0] * 18
    other = {}
    for (name, rows), shift in zip(baseline.items(), shifts, strict=True):
        noise = generator.normal(size=40)
        other[name] = rows + shift + noise - noise.mean()
    columns = [{name: mean(rows.tolist()) for name, rows in each.items()} for each in (baseline, other)]
    found = compare_all({"before": columns[0], "after": columns[1]})["after"]
    assert found["m0"].significant and found["m0"].p_corrected == pytest.approx(20 / 10_001)
    assert found["m1"].low > 0 and found["m1"].p_value < 0.05 < found["m1"].p_corrected
    assert not found["m1"].significant and found["m1"].p_value == compare(columns[0]["m1"], columns[1]["m1"]).p_value
    assert [each.p_corrected for each in found.values()] == holm([each.p_value for each in found.values()])


def test_p_values_of_all_checkpoints_are_corrected_together():
    rows = np.random.default_rng(4).normal(size=12)
    scores = [mean((rows + shift).tolist()) for shift in (0, 1, -1)]
    once = compare_all({"a": {"m": scores[0]}, "b": {"m": scores[1]}})
    twice = compare_all({"a": {"m": scores[0]}, "b": {"m": scores[1]}, "c": {"m": scores[2]}})
    p = compare(scores[0], scores[1]).p_value
    assert once["b"]["m"].p_corrected == p
    assert [twice[label]["m"].p_corrected for label in "bc"] == [2 * p, 2 * p]


def test_a_comparison_of_no_checkpoints_raises():
    with pytest.raises(ValueError, match="`columns` must have at least 1 checkpoint, got 0"):
        compare_all({})


def test_a_score_without_statistics_has_a_difference_without_a_p_value():
    found = compare_all({"a": {"m": mean([1.0, 2.0])}, "b": {"m": Score("m", 4.5, "", None, True)}})["b"]["m"]
    assert found.effect == 3.0 and math.isnan(found.p_corrected) and not found.significant


def test_scores_of_other_rows_or_metrics_raise():
    with pytest.raises(ValueError, match="must have the same rows, got 2 and 1 of 'm'"):
        compare(mean([1.0, 2.0]), mean([1.0]))
    with pytest.raises(ValueError, match="got 'm' pooled by 'mean' and 'p' by 'perplexity'"):
        compare(mean([1.0]), Score("p", 1.0, "", [1.0], False, "perplexity", [[0.0, 1.0]]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "`samples` must be at least 1, got 0"),
        ({"confidence": 95}, r"`confidence` must be in \(0, 1\), got 95"),
    ],
)
def test_arguments_out_of_range_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval([1.0, 2.0], **settings)


def test_scores_read_from_json_compare_as_the_original_ones():
    before, after = mean([1.0, 2.0, 4.0]), mean([2.0, 2.0, 7.0])
    read = [Score(**json.loads(json.dumps(vars(score)))) for score in (before, after)]
    assert compare(*read) == compare(before, after)
    assert isinstance(bootstrap_interval(read[0]), Interval)


def test_only_primary_metrics_are_corrected_and_have_stars():
    """Of three metrics with p = 2/256 one is tested, and its p-value is not multiplied."""
    columns = {
        label: {name: mean_score(name, "s", [value] * 8, True) for name in ("bleu", "chrf", "length")}
        for label, value in (("a", 1.0), ("b", 2.0))
    }
    found = compare_all(columns, ["length"])["b"]
    assert list(found) == ["length", "bleu", "chrf"]
    assert [found[name].significant for name in found] == [True, False, False]
    assert found["length"].p_corrected == found["length"].p_value == pytest.approx(2 / 256, abs=0.005)
    assert math.isnan(found["bleu"].p_corrected) and found["bleu"].low == 1 and not found["bleu"].primary


def test_all_pairs_of_checkpoints_are_corrected_together():
    values = {"a": 1.0, "b": 1.0, "c": 2.0}
    columns = {label: {"bleu": mean_score("bleu", "s", [value] * 8, True)} for label, value in values.items()}
    found = compare_pairs(columns, itertools.combinations(columns, 2))
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    p_values = [differences["bleu"].p_value for differences in found.values()]
    assert [differences["bleu"].p_corrected for differences in found.values()] == holm(p_values)
    assert p_values[0] == 1 and found["b", "c"]["bleu"].effect == 1


def test_rewards_that_are_infinite_on_both_sides_have_no_mean():
    found = mean_score("m", "", [math.inf, -math.inf, 1.0], True)
    assert math.isnan(found.value) and found.statistics is None
    assert mean_score("m", "", [math.inf, 1.0, None], True).value == math.inf
