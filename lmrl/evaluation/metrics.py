"""The corpus metrics by name, each with its signature and the statistics that tests resample."""

from collections.abc import Callable, Sequence

from lmrl.utils import check_in

from .diversity import TEXT_METRICS
from .likelihood import MODEL_SCORES
from .overlap import REFERENCE_METRICS
from .scores import Corpus, Score

METRICS: dict[str, Callable[[str, Corpus], Score]] = {**REFERENCE_METRICS, **TEXT_METRICS}
# Scores of warm starts, classifiers and reward models, with whether higher is better.
SUPERVISED_SCORES = {
    "reference_perplexity": False,
    "accuracy": True,
    "macro_f1": True,
    "log_loss": False,
    "calibration_error": False,
}


def score_completions(corpus: Corpus, metrics: Sequence[str] | None = None) -> dict[str, Score]:
    """
    Returns the scores of a corpus by the names of the metrics, in their order.

    Each score is computed from statistics summed over the rows, so that rows can be resampled, except those that count
    over all rows at once (`distinct1`, `distinct2`, `self_bleu`). Any reward function becomes a metric as one of the
    `reward_funcs` of [`evaluate_model`]: use that for metrics that need a model or a download (BERTScore, a module of
    `evaluate`).

    - `bleu`, `chrf`, `ter`: sacrebleu's corpus scores on 0..100 (Post, 2018, https://aclanthology.org/W18-6319).
      `bleu_e2e`: BLEU of lower-cased texts, as in the E2E challenge. Lower `ter` is better.
    - `nist`: NIST-5 of lower-cased texts, from 0 (Doddington, 2002). `cider`: CIDEr-D of lower-cased texts, mean over
      rows, on 0..10 (Vedantam et al., 2015, https://arxiv.org/abs/1411.5726). Both weight n-grams by how rare they are
      in the references of the evaluated rows, as mteval and the COCO evaluation do.
    - `rouge1`, `rouge2`, `rougeL`, `rougeLsum`: stemmed F-measure of the best reference, mean over rows, on 0..100
      (Lin, 2004, https://aclanthology.org/W04-1013). `meteor`: METEOR of 2005 without synonyms, mean over rows, on
      0..100 (Banerjee and Lavie, 2005, https://aclanthology.org/W05-0909).
    - `distinct1`, `distinct2`: different n-grams over all n-grams of the corpus ("A Diversity-Promoting Objective
      Function for Neural Conversation Models", Li et al., 2016, https://aclanthology.org/N16-1014); it falls as a
      corpus grows, so compare equal numbers of rows.
    - `self_bleu`: mean BLEU of each text against the other samples of its prompt, or if there are none against the
      other texts (of 500 drawn at random), on 0..100; high if all are alike ("Texygen: A Benchmarking Platform for
      Text Generation Models", Zhu et al., 2018, https://arxiv.org/abs/1802.01886).
    - `repetition`: share of the 4-grams of a text that repeat an earlier one, mean over rows, in percent ("Neural Text
      Generation with Unlikelihood Training", Welleck et al., 2020, https://arxiv.org/abs/1908.04319).
    - `length`: mean of `lengths`. `unfinished`: share that `max_new_tokens` cut.

    Args:
        metrics (list of `str`, *optional*):
            Names of the metrics to compute; by default all that apply: those with references only if there are some.

    Raises:
        `ValueError`: if a metric is unknown, or needs references that are missing.
    """
    return {name: METRICS[name](name, corpus) for name in metric_names(metrics, corpus.references is not None)}


def metric_names(metrics: Sequence[str] | None, has_references: bool) -> list[str]:
    """Returns the names of the metrics to compute; the arguments and errors are those of [`score_completions`]."""
    if metrics is None:
        return [name for name in METRICS if has_references or name not in REFERENCE_METRICS]
    for name in metrics:
        check_in(METRICS, metrics=name)
        if name in REFERENCE_METRICS and not has_references:
            raise ValueError(
                f"`references` must be given for the metric {name!r}, got None. Give them or leave it out."
            )
    return list(metrics)


def higher_is_better(name: str, argument: str = "metric") -> bool | None:
    """
    Returns whether higher is better for a score of this name, before it is measured; `None` if neither is better.

    Raises:
        `ValueError`: if no score has that name; the message names the setting `argument` that has it.
    """
    if name == "reward" or name.startswith("reward/"):
        return True
    if name in (known := MODEL_SCORES | SUPERVISED_SCORES):
        return known[name]
    check_in(("reward", "reward/<name>", *METRICS, *MODEL_SCORES), **{argument: name})
    return score_of_two(name).higher_is_better


def score_of_two(name: str) -> Score:
    """Returns a metric of two texts, to look up its direction and whether it has row scores."""
    two = Corpus(["a b", "c d"], [["a b"], ["c d"]], rows=[0, 1], lengths=[2, 2], finished=[True, True])
    return METRICS[name](name, two)
