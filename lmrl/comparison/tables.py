"""Adds win rates and results of several samples to evaluations, as tables for terminal, page, card and JSON."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.table import Table
from rich.text import Text

from lmrl.display.wording import counted, number
from lmrl.evaluation import Evaluation, holm
from lmrl.evaluation.comparison import interval_text, label_pairs
from lmrl.evaluation.matching import matched
from lmrl.evaluation.reporting.tables import make_table
from lmrl.evaluation.roles import is_reward
from lmrl.rewards import reward_name
from lmrl.rollouts import finite

from .samples import BestOf, Similarity, best_of_samples, similarities
from .winrates import WinRate, values_by_prompt, win_cells, win_rate

WIN_RATE = "Win rate"
BEST_OF = "Best of k samples"

_OF_TEXTS = "win rate = (wins + ties / 2) / prompts."
_OF_SAMPLES = (
    "Of each prompt the share of the pairs of samples counts that is won, a tie as half; the win rate is the mean. "
    "Wins are the prompts of which more than half is won; a star needs the rate on their side of a half."
)


def with_win_rates(
    evaluations: Mapping[str, Evaluation], names: Sequence[str], *, all_pairs: bool = False, tolerance: float = 0.0
) -> dict[str, Evaluation]:
    """
    Returns the evaluations; each but the first gets a table of its win rates over the first, or over all before it.

    Args:
        evaluations (`dict` of [`~lmrl.evaluation.Evaluation`]):
            Evaluations of the same rows by label; the first is the baseline.
        names (list of `str`):
            Names of the scores by which win rates are computed. A score that a system lacks gives no win rate for it.
        all_pairs (`bool`, *optional*, defaults to `False`):
            Whether to compare every pair of systems.
        tolerance (`float`, *optional*, defaults to `0.0`):
            Largest difference of two scores that counts as a tie.

    Raises:
        ValueError: As [`win_rate`] does, or if the evaluations are of different rows.
    """
    made = matched(evaluations)
    scores = {label: evaluation.scores for label, evaluation in made.items()}
    rates = {
        (first, second, name): win_rate(scores[first][name], scores[second][name], tolerance=tolerance)
        for first, second in label_pairs(made, all_pairs)
        for name in names
        if name in scores[first] and name in scores[second]
    }
    corrected = holm([each.p_value for each in rates.values()])
    found = {place: replace(each, p_corrected=p) for (place, each), p in zip(rates.items(), corrected, strict=True)}
    tests = sum(not math.isnan(p) for p in corrected)
    several = any(len(evaluation.completions) > evaluation.num_prompts for evaluation in made.values())
    for label in dict.fromkeys(second for _, second, _ in found):
        own = [(first, each) for (first, second, _), each in found.items() if second == label]
        lines = [["by", "over", "win rate [95% CI]", "p (Holm)", "wins", "losses", "ties", "prompts"]]
        lines += [[each.by, first, *win_cells(each)] for first, each in own]
        notes = [_win_note(several, tests, tolerance), *_ties_notes(made, label, own)]
        numbers = [{"over": first, **finite(asdict(each)), "tolerance": tolerance} for first, each in own]
        made[label] = _with_table(made[label], WIN_RATE, [*lines, *([note] for note in notes)], numbers)
    return made


def with_samples(
    evaluations: Mapping[str, Evaluation],
    names: Sequence[str],
    similarity: Similarity,
    *,
    threshold: float | None = None,
) -> dict[str, Evaluation]:
    """
    Returns the evaluations; those with several samples per prompt get a table of the results of k of them.

    Args:
        evaluations (`dict` of [`~lmrl.evaluation.Evaluation`]), names:
            As for [`with_win_rates`]; the table has all rewards and these scores, or BLEU if there are neither.
        similarity (`Callable`):
            Similarity of the minimum-Bayes-risk choice, as for [`similarities`].
        threshold (`float`, *optional*):
            Least reward with which a sample passes; by default 1, for scores that are 0 or 1.
    """
    made = dict(evaluations)
    choice = reward_name(similarity)
    for label, evaluation in evaluations.items():
        scores = evaluation.scores
        wanted = dict.fromkeys([*filter(is_reward, scores), *names]) or ("bleu",)
        sampled = [scores[name] for name in wanted if name in scores and scores[name].sample_scores]
        if not sampled:
            continue
        texts: dict[int, list[str]] = {}
        for completion in evaluation.completions:
            texts.setdefault(completion.row, []).append(completion.text)
        similar = similarities(list(texts.values()), similarity)
        rows: list[BestOf] = []
        for score in sampled:  # the threshold is for rewards: metrics have another scale
            passes_from = threshold if is_reward(score.name) else None
            rows += best_of_samples(score, similar=similar, threshold=passes_from)
        lines = [["by", "k", "best of k", "worst of k", f"MBR of k ({choice})"]]
        for of in rows:
            values = [interval_text(of.best), number(of.worst.value), interval_text(of.typical)]
            lines.append([of.by, str(of.k), *values])
        if any(each.passed for each in rows):
            for line, passed in zip(lines, ["pass@k", *(interval_text(each.passed) for each in rows)], strict=True):
                line.append(passed)
        note = _sample_note([score.name for score in sampled], rows, choice, threshold)
        made[label] = _with_table(evaluation, BEST_OF, [*lines, [note]], [finite(asdict(each)) for each in rows])
    return made


def printed_tables(evaluations: Mapping[str, Evaluation]) -> list[Table]:
    """Returns the tables of [`with_win_rates`] and [`with_samples`] for the terminal."""
    return [
        printed_table(f"{heading}: {label}", evaluation.tables[heading], grouped=heading == BEST_OF)
        for heading in (WIN_RATE, BEST_OF)
        for label, evaluation in evaluations.items()
        if heading in evaluation.numbers
    ]


def printed_table(title: str, lines: Sequence[Sequence[str]], grouped: bool = False) -> Table:
    """Returns a table of an evaluation for the terminal; `grouped` draws a line where the first column changes."""
    shown: list[Sequence[str]] = [lines[0]]
    for above, line in itertools.pairwise(line for line in lines if len(line) > 1):
        if grouped and above is not lines[0] and above[0] != line[0]:
            shown.append([])
        shown.append(line)
    notes = Text("\n".join(line[0] for line in lines if len(line) == 1))
    return make_table(shown, title=Text(title), title_justify="left", caption=notes, caption_justify="left")


def _with_table(
    evaluation: Evaluation, heading: str, lines: list[list[str]], numbers: list[dict[str, Any]]
) -> Evaluation:
    tables = {**evaluation.tables, heading: lines}
    return replace(evaluation, tables=tables, numbers={**evaluation.numbers, heading: numbers})


def _win_note(several: bool, tests: int, tolerance: float) -> str:
    rule = _OF_SAMPLES if several else _OF_TEXTS
    tie = f" Scores that differ by at most {tolerance:g} tie." if tolerance else ""
    correction = f"corrected for {counted(tests, 'win rate')} (Holm), apart from the tests of scores"
    order = "Each text is scored by itself: their order does not matter."
    return f"{rule}{tie} p is from the exact sign test, without ties, {correction}. * marks p below 0.05. {order}"


def _ties_notes(evaluations: Mapping[str, Evaluation], label: str, own: Sequence[tuple[str, WinRate]]) -> list[str]:
    """Returns a sentence for each score by which a system ties with another on every prompt."""
    notes = []
    for over, found in own:
        if found.ties < found.prompts or not found.prompts:
            continue
        scores = [evaluations[one].scores[found.by] for one in (over, label)]
        reason = f"separates {label} from {over} on no prompt"
        if len({value for score in scores for values in values_by_prompt(score) for value in values}) == 1:
            reason = "gave every text the same value, so it separates nothing"
        notes.append(f"All ties: {found.by} {reason}.")
    return list(dict.fromkeys(notes))


def _sample_note(names: Sequence[str], rows: Sequence[BestOf], choice: str, threshold: float | None) -> str:
    counts = dict.fromkeys(names, 0) | {each.by: each.prompts for each in rows}
    prompts = counted(next(iter(counts.values())), "prompt")
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        prompts = f"the prompts of which every sample has a score ({listed})"
    passes = ""
    if any(each.passed for each in rows):
        passes = f" pass@k: one of k at least has {'1' if threshold is None else f'{threshold:g} or better'}."
    return (
        f"Expected score of one text out of k samples, with 95 % bootstrap intervals over {prompts}; k = 1 is the "
        "mean of all samples. The best is chosen by the score itself, with the references where it reads them. "
        f"MBR: the sample that is most similar to the others of the k by {choice}, without references.{passes}"
    )
