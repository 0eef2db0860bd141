"""The gain from several samples per prompt: the best, the worst and the most typical of k, and pass@k."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lmrl.display.cards import card
from lmrl.display.wording import counted
from lmrl.evaluation import Interval, Score, bootstrap_interval
from lmrl.evaluation.comparison import interval_text
from lmrl.rewards import call_reward, reward_name
from lmrl.utils import check_at_least, columns_of

from .winrates import ROUNDING, check_scores_rows, values_by_prompt

Array: TypeAlias = NDArray[np.float64]
Similarity: TypeAlias = Callable[..., list[float | None]]


@dataclass(frozen=True)
class BestOf:
    """
    Results of k samples per prompt by one score, each a mean over prompts with its 95% bootstrap interval.

    Args:
        by (`str`), k (`int`), prompts (`int`):
            Name of the score, number of samples, and number of prompts, counting those whose samples all have a score.
        best, worst ([`~lmrl.evaluation.Interval`]):
            Expected score of the best and of the worst of k samples. With k = 1 both are the mean of all samples.
        typical ([`~lmrl.evaluation.Interval`], *optional*):
            Expected score of the sample that is most similar to the others of the k: the minimum-Bayes-risk choice.
        passed ([`~lmrl.evaluation.Interval`], *optional*):
            pass@k, if every score is 0 or 1, or there is a threshold.
    """

    by: str
    k: int
    prompts: int
    best: Interval
    worst: Interval
    typical: Interval | None = None
    passed: Interval | None = None


class BestOfSamples(list[BestOf]):
    """The results of k samples per prompt, for each k; a notebook shows them as a table."""

    def _repr_html_(self) -> str:
        lines = [["by", "k", "best of k [95 % CI]", "worst of k", "most typical of k", "pass@k"]]
        for each in self:
            intervals = [interval_text(found) for found in (each.best, each.worst, each.typical, each.passed)]
            lines.append([each.by, str(each.k), *intervals])
        shown = [place for place in range(len(lines[0])) if any(line[place] for line in lines[1:])]
        prompts = counted(self[0].prompts, "prompt") if self else "no prompt has several samples"
        table = [[line[place] for place in shown] for line in lines]
        return card("Best of k samples", lead=prompts, tables={"": table})


def best_of(values: ArrayLike, k: int) -> Array:
    """
    Returns the expected maximum (prompts,) of k of the n samples of each prompt: its mean over all subsets of size k.

    It is an unbiased estimate of the expected maximum of k new samples. The i-th smallest of n values, counted from 1,
    is the largest of `C(i - 1, k - 1)` of the `C(n, k)` subsets.

    Args:
        values (array of shape `(prompts, n)`):
            Scores of the samples. The result of a prompt with a NaN is NaN.
        k (`int`):
            Size of the subsets, from 1 to n.

    Raises:
        ValueError: If k is out of its range.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=1)  # NaN comes last, and its weight is not 0
    n = ordered.shape[1]
    check_at_least(1, k=k)
    if k > n:
        raise ValueError(f"`k` must be at most {n}, the number of samples, got {k}.")
    weights = np.array([math.comb(i, k - 1) / math.comb(n, k) for i in range(k - 1, n)])
    return ordered[:, k - 1 :] @ weights


def pass_at(passed: ArrayLike, k: int) -> Array:
    """
    Returns pass@k (prompts,): the probability that at least one of k out of the n samples of a prompt passes.

    If c of n pass, it is `1 - C(n - c, k) / C(n, k)`, which is unbiased: "Evaluating Large Language Models Trained on
    Code" (Chen et al., 2021, https://arxiv.org/abs/2107.03374); this equals the expected maximum of zeros and ones.

    Args:
        passed (array of `bool` of shape `(prompts, n)`), k (`int`):
            Which samples pass, and how many are drawn.
    """
    return best_of(np.asarray(passed, dtype=np.float64), k)


def similarities(texts: Sequence[Sequence[str]], similarity: Similarity) -> list[Array]:
    """
    Returns a matrix (n, n) per prompt: the similarity of each sample to each, NaN where the metric has no value.

    Args:
        texts (list of lists of `str`):
            The samples of each prompt.
        similarity (`Callable`):
            A reward that compares completions with one column of references. In entry (i, j), sample i is the
            completion and sample j its only reference. Equal texts are compared once.

    Raises:
        ValueError: If the reward does not read exactly one column.
    """
    column = reference_column(similarity)
    different = [list(dict.fromkeys(samples)) for samples in texts]
    pairs = [(one, other) for samples in different for one in samples for other in samples]
    columns = {column: [[other] for _, other in pairs]}
    completions = [one for one, _ in pairs]
    values = call_reward(similarity, prompts=[""] * len(pairs), completions=completions, **columns)
    flat = np.array([math.nan if value is None else value for value in values])
    matrices = []
    start = 0
    for samples, unique in zip(texts, different, strict=True):
        square = flat[start : start + len(unique) ** 2].reshape(len(unique), len(unique))
        start += len(unique) ** 2
        places = [unique.index(text) for text in samples]
        matrices.append(square[np.ix_(places, places)])
    return matrices


def reference_column(similarity: Similarity) -> str:
    """Returns the only column that a metric reads, its references; raises a `ValueError` if it is not one."""
    columns = columns_of(similarity)
    if len(columns) != 1:
        read = ", ".join(columns) or "none"
        raise ValueError(
            f"`eval_mbr_metric` must compare a completion with references and read no other column, got "
            f"{reward_name(similarity)!r}, which reads {read}. Take for example rougeL, chrf or token_f1."
        )
    return columns[0]


def most_typical(similar: Array, k: int) -> list[int]:
    """
    Returns the indices of a prompt's minimum-Bayes-risk choices, one for each group of k consecutive samples.

    The choice is the (first) sample with the highest mean similarity to the other samples of its group:
    "Minimum Bayes-Risk Decoding for Statistical Machine Translation" (Kumar and Byrne, 2004,
    https://aclanthology.org/N04-1022), on samples as in "High Quality Rather than High Model Probability" (Freitag et
    al., 2022, https://aclanthology.org/2022.tacl-1.47). As samples are independent of each other, the mean over groups
    is an unbiased estimate for k samples. If k does not divide n, the remaining samples are left out.

    Args:
        similar (array of shape `(n, n)`):
            The similarities, by [`similarities`].
        k (`int`):
            Size of the groups, from 1 to n.
    """
    choices = []
    for start in range(0, len(similar) - k + 1, k):
        group = similar[start : start + k, start : start + k].copy()
        np.fill_diagonal(group, np.nan)
        known = ~np.isnan(group)
        counts = known.sum(axis=1)
        sums = np.where(known, group, 0.0).sum(axis=1)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)
        choices.append(start + int(means.argmax()))
    return choices


def sizes(n: int) -> list[int]:
    """Returns the powers of 2 below n, then n."""
    return [2**power for power in range(n.bit_length()) if 2**power < n] + [n]


def best_of_samples(
    score: Score, *, similar: Sequence[Array] | None = None, threshold: float | None = None
) -> BestOfSamples:
    """
    Returns the results of k samples per prompt by a score, for k = 1, 2, 4, ..., n; none if no prompt has several.

    Args:
        score ([`~lmrl.evaluation.Score`]):
            A score with a better direction.
        similar (list of arrays of shape `(n, n)`, *optional*):
            Similarities of the samples of each prompt, for the minimum-Bayes-risk choice.
        threshold (`float`, *optional*):
            Least score with which a sample passes. Defaults to 1 if every score is 0 or 1 and higher is better.

    Raises:
        ValueError: If the score has no values for single texts, or no better direction.
    """
    sign = check_scores_rows(score)
    values = np.array(values_by_prompt(score), dtype=np.float64)
    known = [not row.any() for row in np.isnan(values)]
    values = values[known]
    if score.sample_scores is None or not len(values):
        return BestOfSamples()
    if threshold is None and np.isin(values, (0.0, 1.0)).all() and sign > 0:
        threshold = 1.0
    kept = None if similar is None else [matrix for matrix, has in zip(similar, known, strict=True) if has]
    rows = BestOfSamples()
    for k in sizes(values.shape[1]):
        best = bootstrap_interval(sign * best_of(sign * values, k))
        worst = bootstrap_interval(-sign * best_of(-sign * values, k))
        typical = None
        if kept is not None:
            means = [float(row[most_typical(matrix, k)].mean()) for row, matrix in zip(values, kept, strict=True)]
            typical = bootstrap_interval(means)
        passed = None
        if threshold is not None:
            passed = bootstrap_interval(pass_at(values >= threshold - ROUNDING * abs(threshold), k))
        rows.append(BestOf(score.name, k, len(values), best, worst, typical, passed))
    return rows
