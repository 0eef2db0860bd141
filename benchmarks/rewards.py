"""How fast the rewards are, next to the library that defines each: the same texts, one core, the same scores.

    python benchmarks/rewards.py                            # a few minutes
    python benchmarks/rewards.py --only bleu,rougeL --json speed.json

Texts are scored in small batches, ours and the library's in turn, so that a machine that is slower for a while is so
for both, and what counts is the processor's time. Each round begins with empty caches, the library's included, and
has two passes: in the first, the references of each row are new and come with several completions, as in training; in
the second, the same references come back with other completions, as in a later epoch. Ratios are medians over the
rounds. Slow metrics have fewer rows. Scores that differ by more than 1e-9 are an error: the exit status is 1.
"""

import argparse
import functools
import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from _texts import Texts, sentences, summaries
from nltk.translate.gleu_score import sentence_gleu
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU as SacreBLEU
from sacrebleu.metrics.chrf import CHRF as SacreCHRF
from sacrebleu.metrics.ter import TER as SacreTER

from lmrl.rewards import BLEU, GLEU, METEOR, TER, ChrF, Reward, Rouge

EXACT = 1e-9
BATCH = 16  # rows scored at a time
CACHING = ("lmrl", "nltk", "rouge_score", "sacrebleu")
PASSES = ("new", "known")  # the references
LEGEND = """\
Completions scored per second of processor time, and how many times faster ours are. new: the references are seen for
the first time in this pass; known: they were in an earlier one. difference: the largest of two scores."""
NO_WORDNET = SimpleNamespace(synsets=lambda word: [])  # METEOR without synonyms
Scorer = Callable[[str, list[str]], list[float]]


@dataclass(frozen=True)
class Contest:
    """Our rewards, and how the library scores a completion with each of them; both made anew in every round."""

    ours: Callable[[], list[Reward]]
    library: Callable[[], Scorer]
    texts: Callable[[int, int, int], Texts] = sentences
    fewer: int = 1  # times fewer rows, where the library is slow


def _sacrebleu(metric: Callable[[], Any]) -> Scorer:
    library = metric()
    return lambda text, references: [library.sentence_score(text, references).score / 100]


def _rouge_score(names: list[str], stem: bool) -> Scorer:
    library = RougeScorer(names, use_stemmer=stem)

    def scores(text: str, references: list[str]) -> list[float]:
        best = library.score_multi(references, text)
        return [best[name].fmeasure for name in names]

    return scores


def _bleu(**options: Any) -> Contest:
    effective = functools.partial(SacreBLEU, effective_order=True, **options)
    return Contest(lambda: [BLEU(**options)], lambda: _sacrebleu(effective))


def _chrf(**options: Any) -> Contest:
    return Contest(lambda: [ChrF(**options)], lambda: _sacrebleu(functools.partial(SacreCHRF, **options)))


def _ter() -> Scorer:
    library = SacreTER()
    return lambda text, references: [1 - min(library.sentence_score(text, references).score / 100, 1.0)]


def _nltk(score: Callable[..., float]) -> Scorer:
    tokenizer = SacreBLEU().tokenizer
    return lambda text, references: [
        score([tokenizer(reference).split() for reference in references], tokenizer(text).split())
    ]


def _rouge(*names: str, stem: bool = True, **options: Any) -> Contest:
    ours = [functools.partial(Rouge, name, use_stemmer=stem) for name in names]
    return Contest(lambda: [make() for make in ours], lambda: _rouge_score(list(names), stem), **options)


CONTESTS = {
    "bleu": _bleu(),
    "chrf": _chrf(),
    "chrf++": _chrf(word_order=2),
    "rouge1": _rouge("rouge1"),
    "rouge2": _rouge("rouge2"),
    "rougeL": _rouge("rougeL"),
    "rouge1+2+L": _rouge("rouge1", "rouge2", "rougeL"),
    "rouge1-unstemmed": _rouge("rouge1", stem=False),
    "rouge2-unstemmed": _rouge("rouge2", stem=False),
    "rougeL-unstemmed": _rouge("rougeL", stem=False),
    "gleu": Contest(lambda: [GLEU()], lambda: _nltk(sentence_gleu)),
    "meteor": Contest(lambda: [METEOR()], lambda: _nltk(functools.partial(meteor_score, wordnet=NO_WORDNET))),
    "ter": Contest(lambda: [TER()], _ter, fewer=10),
    "rougeL-summaries": _rouge("rougeL", texts=summaries, fewer=3),
    "rougeLsum": _rouge("rougeLsum", texts=summaries, fewer=3),
    "rougeLsum-unstemmed": _rouge("rougeLsum", stem=False, texts=summaries, fewer=3),
}


def clear_caches() -> None:
    """Empty every `lru_cache` of ours and of the libraries, which keep tokenised texts as we do."""
    for thing in gc.get_objects():
        if type(thing) is functools._lru_cache_wrapper and str(thing.__module__).split(".")[0] in CACHING:
            thing.cache_clear()


def timed(call: Callable[[], list[list[float]]]) -> tuple[float, list[list[float]]]:
    """Returns the processor time of a call in seconds, and its result."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def one_pass(rewards: list[Reward], library: Scorer, data: Texts, which: int) -> tuple[float, float, float]:
    """Returns the seconds of ours and of the library, and the largest difference of two scores."""
    mine = theirs = largest = 0.0
    for start in range(0, len(data.references), BATCH):
        rows = zip(data.completions[which][start : start + BATCH], data.references[start : start + BATCH], strict=True)
        pairs = [(text, references) for group, references in rows for text in group]
        columns = {"completions": [text for text, _ in pairs], "references": [references for _, references in pairs]}
        seconds, scores = timed(lambda given=columns: [reward(**given) for reward in rewards])
        mine += seconds
        seconds, expected = timed(lambda given=pairs: [library(*pair) for pair in given])
        theirs += seconds
        for ours, row in zip(zip(*scores, strict=True), expected, strict=True):
            largest = max(largest, *(abs(a - b) for a, b in zip(ours, row, strict=True)))
    return mine, theirs, largest


def measure(contest: Contest, data: Texts, rounds: int) -> dict[str, Any]:
    """Returns a row of the table: for each pass the texts per second and the ratio, and the largest difference."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in PASSES}
    largest = 0.0
    one_pass(contest.ours(), contest.library(), contest.texts(1, 1, 1), 0)  # imports what is imported on first use
    for _ in range(rounds):
        clear_caches()
        rewards, library = contest.ours(), contest.library()
        for which, name in enumerate(PASSES):
            mine, theirs, difference = one_pass(rewards, library, data, which)
            seconds[name].append((mine, theirs))
            largest = max(largest, difference)
    texts = sum(map(len, data.completions[0]))
    row: dict[str, Any] = {"texts": f"{data.source}, {len(data.references)} rows", "difference": largest}
    for name, pairs in seconds.items():
        row[name] = {
            "ours": median(texts / mine for mine, _ in pairs),
            "library": median(texts / theirs for _, theirs in pairs),
            "ratio": median(theirs / mine for mine, theirs in pairs),
        }
    return row


def table(results: dict[str, dict[str, Any]]) -> str:
    """Returns the aligned table."""
    columns = [f"{name}: {column}" for name in PASSES for column in ("ours/s", "library/s", "ratio")]
    rows = [["", "texts", *columns, "difference"]]
    for name, row in results.items():
        cells = [(f"{row[p]['ours']:.0f}", f"{row[p]['library']:.0f}", f"{row[p]['ratio']:.1f}") for p in PASSES]
        rows.append([name, row["texts"], *(cell for group in cells for cell in group), f"{row['difference']:.0e}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = [[row[0].ljust(widths[0]), row[1].ljust(widths[1])] for row in rows]
    right = [[*map(str.rjust, row[2:], widths[2:])] for row in rows]
    return "\n".join("  ".join(start + end) for start, end in zip(left, right, strict=True))


def parse() -> argparse.Namespace:
    """Returns the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def number(flag: str, default: int, text: str) -> None:
        parser.add_argument(flag, type=_positive, default=default, metavar="N", help=f"{text} (default: %(default)s)")

    parser.add_argument(
        "--only", type=_names, default=list(CONTESTS), metavar="A,B", help=f"some of {','.join(CONTESTS)}"
    )
    number("--rows", 60, "rows of references, fewer of slow metrics")
    number("--completions", 4, "completions of each row in a pass")
    number("--rounds", 3, "times that all is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser.parse_args()


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return int(text)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(CONTESTS):
        raise argparse.ArgumentTypeError(f"no contest is called {', '.join(sorted(unknown))}")
    return names


def main() -> None:
    arguments = parse()
    results = {}
    for name in arguments.only:
        contest = CONTESTS[name]
        data = contest.texts(max(arguments.rows // contest.fewer, 1), arguments.completions, len(PASSES))
        results[name] = measure(contest, data, arguments.rounds)
        print(f"{name}: {results[name]['new']['ratio']:.1f} x", file=sys.stderr)
    print(f"{arguments.completions} completions of each row.\n\n{table(results)}\n\n{LEGEND}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    if different := [name for name, row in results.items() if not row["difference"] <= EXACT]:
        raise SystemExit(f"error: scores differ by more than {EXACT:.0e} from the library's: {', '.join(different)}")


if __name__ == "__main__":
    main()
