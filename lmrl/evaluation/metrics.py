"""Corpus metrics, each with the signature that makes it comparable and the statistics that make it testable."""

from collections.abc import Callable, Sequence

from .diversity import distinct, repetition, self_bleu
from .overlap import OVERLAP
from .scores import Score, mean_score

__all__ = ["METRICS", "REFERENCE_METRICS", "TEXT_METRICS", "Score", "mean_score", "score_completions"]

TEXT_METRICS = ("distinct1", "distinct2", "self_bleu", "repetition", "length", "unfinished")
REFERENCE_METRICS = tuple(OVERLAP)
METRICS = (*OVERLAP, *TEXT_METRICS)


def score_completions(
    completions: Sequence[str],
    references: Sequence[Sequence[str]] | None,
    *,
    lengths: Sequence[int],
    finished: Sequence[bool],
    rows: Sequence[int] | None = None,
    metrics: Sequence[str] | None = None,
    length_unit: str = "tokens|eos:included",
) -> dict[str, Score]:
    """
    Returns the metrics of a corpus of completions by name.

    Each is made of statistics summed over the rows, so that it can be resampled, but for those that count over all
    rows at once (`distinct1`, `distinct2`, `self_bleu`). What needs a model or a download (BERTScore, a module of
    `evaluate`) is a metric too if it is given to [`evaluate_model`] as one of `rewards`.

    - `bleu`, `chrf`, `ter`: sacrebleu's corpus scores on 0..100 (Post, 2018, https://aclanthology.org/W18-6319).
      `bleu_e2e`: BLEU of lower-cased texts, which is how the E2E challenge counts. Lower `ter` is better.
    - `nist`: NIST-5 of lower-cased texts, from 0 (Doddington, 2002). `cider`: CIDEr-D of lower-cased texts, mean over
      rows, on 0..10 (Vedantam et al., 2015, https://arxiv.org/abs/1411.5726). Both weigh n-grams by how rare they are
      in the references of these very rows, as mteval and the COCO evaluation do.
    - `rouge1`, `rouge2`, `rougeL`, `rougeLsum`: stemmed F-measure of the best reference, mean over rows, on 0..100
      (Lin, 2004, https://aclanthology.org/W04-1013). `meteor`: METEOR of 2005 without synonyms, mean over rows, on
      0..100 (Banerjee and Lavie, 2005, https://aclanthology.org/W05-0909).
    - `distinct1`, `distinct2`: different n-grams over all n-grams of the corpus ("A Diversity-Promoting Objective
      Function for Neural Conversation Models", Li et al., 2016, https://aclanthology.org/N16-1014); it falls as a
      corpus grows, so compare equal numbers of rows.
    - `self_bleu`: mean BLEU of each text against the other samples of its prompt, or if there are none against the
      other texts (of 500 drawn at random), on 0..100; high where all say alike ("Texygen: A Benchmarking Platform for
      Text Generation Models", Zhu et al., 2018, https://arxiv.org/abs/1802.01886).
    - `repetition`: share of the 4-grams of a text that repeat an earlier one, mean over rows, in percent ("Neural Text
      Generation with Unlikelihood Training", Welleck et al., 2020, https://arxiv.org/abs/1908.04319).
    - `length`: mean of `lengths`. `unfinished`: share that `max_new_tokens` cut.

    Args:
        completions (list of `str`):
            One text per row.
        references (list of lists of `str`, *optional*):
            One or more references per row; rows may have different numbers of them.
        lengths (list of `int`):
            Length of each completion.
        finished (list of `bool`):
            Whether each completion ended by itself.
        rows (list of `int`, *optional*):
            Which prompt each completion answers; by default each its own. Samples of one prompt have the same number.
        metrics (list of `str`, *optional*):
            Names of the metrics wanted; by default all that apply: those with references only if there are some.
        length_unit (`str`, *optional*, defaults to `"tokens|eos:included"`):
            What `lengths` count.

    Returns:
        `dict` of [`Score`] by name, in the order of `metrics`.

    Raises:
        `ValueError`: if there are no rows, lengths differ, a row has no reference, a metric is unknown or needs
            references that are not there.
    """
    if metrics is None:
        metrics = TEXT_METRICS if references is None else REFERENCE_METRICS + TEXT_METRICS
    prompts = range(len(completions)) if rows is None else rows
    _check_rows(completions, references, lengths, finished, prompts)
    _check_metrics(metrics, references)
    texts, golds = list(completions), [list(row) for row in references or []]
    of_texts: dict[str, Callable[[], Score]] = {
        "distinct1": lambda: distinct("distinct1", texts),
        "distinct2": lambda: distinct("distinct2", texts),
        "self_bleu": lambda: self_bleu(texts, prompts),
        "repetition": lambda: repetition(texts),
        "length": lambda: mean_score("length", f"unit:{length_unit}", [float(n) for n in lengths], None),
        "unfinished": lambda: mean_score("unfinished", "share", [float(not done) for done in finished], False),
    }
    return {
        name: of_texts[name]() if name in of_texts else OVERLAP[name](name, texts, golds, prompts) for name in metrics
    }


def _check_rows(
    completions: Sequence[str],
    references: Sequence[Sequence[str]] | None,
    lengths: Sequence[int],
    finished: Sequence[bool],
    rows: Sequence[int],
) -> None:
    if not completions:
        raise ValueError("There are 0 completions, but a score needs at least 1 row. Check what was selected.")
    columns: dict[str, Sequence[object]] = {"lengths": lengths, "finished": finished, "rows": rows}
    if references is not None:
        columns["references"] = references
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
        if name not in METRICS:
            raise ValueError(f"Unknown metric {name!r}: choose from {', '.join(METRICS)}.")
        if name in OVERLAP and references is None:
            raise ValueError(f"The metric {name!r} needs references, but there are none. Give them, or leave it out.")
