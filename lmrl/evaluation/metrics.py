"""Corpus metrics, each with the signature that makes it comparable and the row scores that make it testable."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lmrl import rewards


@dataclass(frozen=True)
class Score:
    """
    A metric's value over a corpus.

    Args:
        name (`str`):
            Name of the metric.
        value (`float`):
            Its value over the corpus; NaN where no row has one.
        signature (`str`):
            What exactly was computed: tokenisation, case, version and the like.
        row_scores (list of `float`, *optional*):
            The metric of each row by itself (NaN where it does not apply), for paired comparisons; `None` where a row
            has none. Their mean is not the value where the corpus pools statistics.
        higher_is_better (`bool`, *optional*):
            The direction, or `None` where neither is better by itself (length).
    """

    name: str
    value: float
    signature: str
    row_scores: list[float] | None
    higher_is_better: bool | None


REFERENCE_METRICS = ("bleu", "bleu_e2e", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum")
TEXT_METRICS = ("distinct1", "distinct2", "length", "unfinished")


def score_completions(
    completions: Sequence[str],
    references: Sequence[Sequence[str]] | None,
    *,
    lengths: Sequence[int],
    finished: Sequence[bool],
    metrics: Sequence[str] | None = None,
) -> dict[str, Score]:
    """
    Returns the metrics of a corpus of completions by name.

    `bleu`, `chrf`: sacreBLEU's corpus scores on 0..100, statistics pooled over the rows; row scores are sentence
    scores ("A Call for Clarity in Reporting BLEU Scores", Post, 2018, https://aclanthology.org/W18-6319). `bleu_e2e`:
    the same lower-cased, which is how the E2E challenge counts. `rouge1`, `rouge2`, `rougeL`, `rougeLsum`: stemmed
    F-measure of the best reference, mean over rows, on 0..100 (Lin, 2004, https://aclanthology.org/W04-1013).
    `distinct1`, `distinct2`: different n-grams over all n-grams of the corpus ("A Diversity-Promoting Objective
    Function for Neural Conversation Models", Li et al., 2016, https://aclanthology.org/N16-1014); it falls as a corpus
    grows, so compare equal numbers of rows. `length`: mean tokens. `unfinished`: share that `max_new_tokens` cut.

    Args:
        completions (list of `str`):
            One text per row.
        references (list of lists of `str`, *optional*):
            One or more references per row; rows may have different numbers of them.
        lengths (list of `int`):
            Length of each completion in tokens.
        finished (list of `bool`):
            Whether each completion ended by itself.
        metrics (list of `str`, *optional*):
            Names of the metrics wanted; by default all that apply: those with references only if there are some.

    Returns:
        `dict` of [`Score`] by name, in the order of `metrics`.

    Raises:
        `ValueError`: if there are no rows, lengths differ, a row has no reference, a metric is unknown or needs
            references that are not there.
    """
    if metrics is None:
        metrics = TEXT_METRICS if references is None else REFERENCE_METRICS + TEXT_METRICS
    _check_rows(completions, references, lengths, finished)
    _check_metrics(metrics, references)
    texts, golds = list(completions), [list(row) for row in references or []]
    compute: dict[str, Callable[[], Score]] = {
        "bleu": lambda: _bleu("bleu", texts, golds, lowercase=False),
        "bleu_e2e": lambda: _bleu("bleu_e2e", texts, golds, lowercase=True),
        "chrf": lambda: _chrf(texts, golds),
        "rouge1": lambda: _rouge("rouge1", texts, golds),
        "rouge2": lambda: _rouge("rouge2", texts, golds),
        "rougeL": lambda: _rouge("rougeL", texts, golds),
        "rougeLsum": lambda: _rouge("rougeLsum", texts, golds),
        "distinct1": lambda: _distinct("distinct1", texts, 1),
        "distinct2": lambda: _distinct("distinct2", texts, 2),
        "length": lambda: mean_score("length", "unit:tokens|eos:included", [float(n) for n in lengths], None),
        "unfinished": lambda: mean_score("unfinished", "share", [float(not done) for done in finished], False),
    }
    return {name: compute[name]() for name in metrics}


def mean_score(name: str, signature: str, values: Sequence[float | None], higher_is_better: bool | None) -> Score:
    """
    Returns the score whose value is the mean of its row scores; `None` counts for nothing and becomes NaN.

    Args:
        name (`str`):
            Name of the metric.
        signature (`str`):
            What was computed.
        values (list of `float` or `None`):
            One per row.
        higher_is_better (`bool`, *optional*):
            The direction.

    Returns:
        [`Score`], its value NaN if no row has one.
    """
    row_scores = [math.nan if value is None else float(value) for value in values]
    applicable = [value for value in row_scores if not math.isnan(value)]
    value = math.fsum(applicable) / len(applicable) if applicable else math.nan
    return Score(name, value, signature, row_scores, higher_is_better)


def _bleu(name: str, texts: list[str], references: list[list[str]], *, lowercase: bool) -> Score:
    from sacrebleu.metrics.bleu import BLEU as SacreBLEU

    return _pooled(name, SacreBLEU(lowercase=lowercase), rewards.BLEU(lowercase=lowercase), texts, references)


def _chrf(texts: list[str], references: list[list[str]]) -> Score:
    from sacrebleu.metrics.chrf import CHRF

    return _pooled("chrf", CHRF(), rewards.ChrF(), texts, references)


def _pooled(name: str, corpus: Any, reward: rewards.Reward, texts: list[str], references: list[list[str]]) -> Score:
    # sacreBLEU takes the first references of all rows, then the second, ...: None where a row has no more.
    most = max(len(row) for row in references)
    streams = [[row[i] if i < len(row) else None for row in references] for i in range(most)]
    value = float(corpus.corpus_score(texts, streams).score)
    row_scores = _row_scores(reward, texts, references)
    return Score(name, value, str(corpus.get_signature()), row_scores, higher_is_better=True)


def _rouge(name: str, texts: list[str], references: list[list[str]]) -> Score:
    reward = rewards.Rouge(name, use_stemmer=True)
    return mean_score(name, reward.signature, _row_scores(reward, texts, references), higher_is_better=True)


def _row_scores(reward: rewards.Reward, texts: list[str], references: list[list[str]]) -> list[float]:
    values = reward(completions=texts, references=references)
    return [math.nan if value is None else 100 * value for value in values]


def _distinct(name: str, texts: list[str], n: int) -> Score:
    total, different = 0, set()
    for text in texts:
        tokens = text.split()
        ngrams = list(zip(*(tokens[i:] for i in range(n)), strict=False))  # cut to the shortest on purpose
        total += len(ngrams)
        different.update(ngrams)
    value = len(different) / total if total else math.nan
    return Score(name, value, f"n:{n}|tok:whitespace|case:mixed|pooled:corpus", None, higher_is_better=True)


def _check_rows(
    completions: Sequence[str],
    references: Sequence[Sequence[str]] | None,
    lengths: Sequence[int],
    finished: Sequence[bool],
) -> None:
    if not completions:
        raise ValueError("There are 0 completions, but a score needs at least 1 row. Check what was selected.")
    columns = {"lengths": lengths, "finished": finished} | ({} if references is None else {"references": references})
    for name, column in columns.items():
        if len(column) != len(completions):
            raise ValueError(f"There are {len(completions)} completions but {len(column)} {name}: give one per row.")
    for row, golds in enumerate(references or []):
        if isinstance(golds, str) or not golds:
            raise ValueError(
                f"The references of row {row} are {golds!r}, but must be a list of at least one text. "
                "Wrap a single reference in a list; leave out rows that have none."
            )


def _check_metrics(metrics: Sequence[str], references: Sequence[Sequence[str]] | None) -> None:
    for name in metrics:
        if name not in REFERENCE_METRICS + TEXT_METRICS:
            raise ValueError(f"Unknown metric {name!r}: choose from {', '.join(REFERENCE_METRICS + TEXT_METRICS)}.")
        if name in REFERENCE_METRICS and references is None:
            raise ValueError(f"The metric {name!r} needs references, but there are none. Give them, or leave it out.")
