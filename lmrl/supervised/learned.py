"""Held-out evaluations of classifiers and of reward models, each beside that of a simple rule."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike

from lmrl.evaluation import Completion, Evaluation, Score
from lmrl.evaluation.comparison import interval_text
from lmrl.evaluation.rows import row_ids
from lmrl.evaluation.scores import mean_score, pooled_score
from lmrl.evaluation.statistics import Array
from lmrl.rewards import completion_text
from lmrl.supervised.scores import bins_of, clustered, clustered_interval, decided_right

Table = list[list[str]]

_BINS = 10  # of the confidence
_MOST_LABELS = 20  # a table of confusions with more cannot be read


def evaluate_labels(
    logits: ArrayLike, rows: Dataset, train_labels: Sequence[int], names: Sequence[str]
) -> tuple[Dataset, dict[str, Evaluation]]:
    """
    Returns the held-out texts, those that the classifier got most wrong first, and two evaluations: of a rule that
    always predicts the most frequent label of the training rows (`majority`), and of the `classifier`.

    Args:
        logits (array of shape `(rows, labels)`):
            Outputs of the classifier for the held-out rows.
        rows (`datasets.Dataset`):
            Held-out rows with `text` and `label`.
        train_labels (list of `int`):
            Labels of the training rows: how often each occurs there is the confidence of the rule.
        names (list of `str`):
            Names of the labels.
    """
    scaled = np.asarray(logits, dtype=np.float64)
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    learned = scaled / scaled.sum(axis=1, keepdims=True)
    counts = Counter(train_labels)
    frequencies = np.array([counts[label] for label in range(len(names))]) / len(train_labels)
    labels = np.array(rows["label"])
    hardest = np.argsort(learned[np.arange(len(labels)), labels], kind="stable")
    references = [[names[label]] for label in labels[hardest]]
    shown = Dataset.from_dict({"prompt": rows.select(hardest)["text"][:], "references": references})
    confidences = {"majority": np.tile(frequencies, (len(labels), 1)), "classifier": learned}
    evaluations = {
        label: _evaluate_labels(probabilities[hardest], labels[hardest], names, row_ids(shown.to_list()))
        for label, probabilities in confidences.items()
    }
    return shown, evaluations


def _evaluate_labels(probabilities: Array, labels: Any, names: Sequence[str], ids: list[str]) -> Evaluation:
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    correct = (predicted == labels).astype(np.float64)
    every = np.arange(len(names))
    hits = 2.0 * ((predicted[:, None] == every) & (labels[:, None] == every))
    either = (predicted[:, None] == every).astype(np.float64) + (labels[:, None] == every)
    f1 = np.stack([hits, either], axis=2).reshape(len(labels), -1).tolist()
    error, table = _calibration(confidence, correct, 1 / len(names), range(len(labels)))
    scores = [
        mean_score("accuracy", "share of the rows that are decided right", correct.tolist(), True),
        pooled_score("macro_f1", "mean of the F1 of labels that occur", "macro_f1", f1, None, True),
        _log_loss(probabilities[np.arange(len(labels)), labels]),
        error,
    ]
    tables = {"Calibration": table}
    if len(names) <= _MOST_LABELS:
        confusion = [[str(int(((labels == true) & (predicted == guess)).sum())) for guess in every] for true in every]
        lines = [[name, *line] for name, line in zip(names, confusion, strict=True)]
        tables = {"Confusion": [["true label, predicted as", *names], *lines], **tables}
    texts = [f"{names[guess]} ({share:.0%})" for guess, share in zip(predicted, confidence, strict=True)]
    return _evaluation(texts, scores, ids, tables)


def evaluate_pairs(margins: Sequence[float], pairs: Dataset) -> tuple[Dataset, dict[str, Evaluation]]:
    """
    Returns the held-out pairs, those that the reward model got most wrong first, and two evaluations: of a rule that
    prefers the longer or the shorter completion, whichever is right more often (`length`), and of the `reward_model`.

    Args:
        margins (list of `float`):
            Reward of the chosen completion of each pair, minus that of the rejected one.
        pairs (`datasets.Dataset`):
            Held-out rows with `prompt`, `chosen` and `rejected`.
    """
    worst = np.argsort(np.asarray(margins), kind="stable")
    by_reward = np.asarray(margins, dtype=np.float64)[worst]
    ordered = [pairs[int(index)] for index in worst]
    texts = [(completion_text(pair["chosen"]), completion_text(pair["rejected"])) for pair in ordered]
    shown = Dataset.from_list(
        [
            {"prompt": pair["prompt"], "references": [chosen.strip()]}
            for pair, (chosen, _) in zip(ordered, texts, strict=True)
        ]
    )
    groups = [repr(pair["prompt"]) for pair in ordered]
    longer = np.array([len(chosen) - len(rejected) for chosen, rejected in texts], dtype=np.float64)
    by_length = longer if (np.sign(longer).sum() >= 0) else -longer
    ids = row_ids(shown.to_list())
    confidence = 1 / (1 + np.exp(-np.abs(by_reward)))
    error, table = _calibration(confidence, decided_right(by_reward), 0.5, groups)
    log_loss = clustered(_log_loss(1 / (1 + np.exp(-by_reward))), groups)
    scores = [_pair_accuracy(by_reward, groups), log_loss, error]
    preferred = [pair[int(margin < 0)] for pair, margin in zip(texts, by_reward, strict=True)]
    labelled = [f"{text.strip()} (by {abs(margin):.2f})" for text, margin in zip(preferred, by_reward, strict=True)]
    rule = [pair[int(margin < 0)].strip() for pair, margin in zip(texts, by_length, strict=True)]
    evaluations = {
        "length": _evaluation(rule, [_pair_accuracy(by_length, groups)], ids, {}),
        "reward_model": _evaluation(labelled, scores, ids, {"Calibration": table}),
    }
    return shown, evaluations


def _evaluation(texts: list[str], scores: list[Score], ids: list[str], tables: dict[str, Any]) -> Evaluation:
    completions = [Completion(row, 0, text, 0, True) for row, text in enumerate(texts)]
    return Evaluation(completions, {score.name: score for score in scores}, {}, ids, tables=tables)


def _pair_accuracy(margins: Array, groups: Sequence[Hashable]) -> Score:
    signature = "share of the pairs whose chosen completion has the larger reward|ties:1/2|interval:over prompts"
    return clustered(mean_score("accuracy", signature, decided_right(margins).tolist(), True), groups)


def _log_loss(of_truth: Array) -> Score:
    # A probability that rounds to 0 would make the mean infinite.
    nats = -np.log(np.maximum(of_truth, np.finfo(np.float64).tiny))
    return mean_score("log_loss", "nats per decision", nats.tolist(), False)


def _calibration(confidence: Array, correct: Array, lowest: float, groups: Sequence[Hashable]) -> tuple[Score, Table]:
    """
    Returns the expected calibration error (Guo et al., 2017), and a table of how many decisions each bin of the
    confidence has and how many of them are right; `lowest` is the least possible confidence.
    """
    member = bins_of(confidence, lowest, _BINS)
    statistics = np.zeros((len(correct), _BINS + 1))
    statistics[np.arange(len(correct)), member] = correct - confidence
    statistics[:, -1] = 1
    signature = f"expected calibration error|bins:{_BINS} of equal width"
    score = pooled_score("calibration_error", signature, "calibration_error", statistics.tolist(), None, False)
    table = [["confidence", "decisions", "mean confidence", "right [95% CI]"]]
    edges = lowest + (1 - lowest) * np.arange(_BINS + 1) / _BINS
    for number in np.unique(member):
        inside = np.flatnonzero(member == number)
        right = clustered_interval(correct[inside].tolist(), [groups[int(index)] for index in inside])
        span = f"{edges[number]:.2f} to {edges[number + 1]:.2f}"
        table.append([span, str(len(inside)), f"{confidence[inside].mean():.3f}", interval_text(right)])
    return clustered(score, groups), table
