"""Speed of each reward compared with the library that defines it: same texts, one core, same scores.

    python benchmarks/rewards.py                            # a few minutes
    python benchmarks/rewards.py --only bleu,rougeL --json speed.json
    python benchmarks/rewards.py --progress                 # the numbers before each token, a minute

Texts are scored in small batches, by lmrl and the library in turn, so that a machine that is slow for a while slows
down both, and only processor time counts. Each round begins with empty caches, also the library's, and has two passes:
in the first, the references of each row are new and come with several completions, as in training; in the second, the
same references come back with other completions, as in a later epoch. Ratios are medians over the rounds. Slow metrics
have fewer rows. Scores that differ by more than 1e-9 are an error: the exit status is 1. `--progress` measures the
numbers that a critic or dense rewards read before each token, for 256 completions with 8 references.
"""

import argparse
import dataclasses
import functools
import gc
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from _common import add_names, add_numbers, aligned, make_parser, write_results
from _texts import Texts, sentences, summaries
from nltk.translate.gleu_score import sentence_gleu
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU as SacreBLEU
from sacrebleu.metrics.chrf import CHRF as SacreCHRF
from sacrebleu.metrics.ter import TER as SacreTER

from lmrl.progress import Prefixes
from lmrl.rewards import (
    BLEU,
    GLEU,
    METEOR,
    TER,
    ChrF,
    DistinctN,
    EditSimilarity,
    ExactMatch,
    Format,
    Keywords,
    Length,
    Reward,
    Rouge,
    SlotCoverage,
    TokenF1,
)

EXACT = 1e-9
BATCH = 16  # rows scored at a time
CACHING = ("lmrl", "nltk", "rouge_score", "sacrebleu")
PASSES = ("new", "known")  # whether the references were seen before
LEGEND = """\
Completions scored per second of processor time, and how many times faster lmrl is. new: the references are seen for
the first time in this pass; known: they were in an earlier one. difference: the largest of two scores."""
NO_WORDNET = SimpleNamespace(synsets=lambda word: [])  # METEOR without synonyms
Scorer = Callable[[str, list[str]], list[float]]


@dataclass(frozen=True)
class Contest:
    """Rewards of lmrl, and the library's function for the same scores; both are made anew in every round."""

    rewards: Callable[[], list[Reward]]
    library: Callable[[], Scorer]
    texts: Callable[[int, int, int], Texts] = sentences
    fewer: int = 1  # divides the number of rows, for a slow library


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
    makers = [functools.partial(Rouge, name, use_stemmer=stem) for name in names]
    return Contest(lambda: [make() for make in makers], lambda: _rouge_score(list(names), stem), **options)


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


PROGRESS: dict[str, Callable[[], Reward]] = {
    "bleu": BLEU,
    "gleu": GLEU,
    "chrf": ChrF,
    "chrf++": functools.partial(ChrF, word_order=2),
    "rouge2": functools.partial(Rouge, "rouge2"),
    "rougeL": functools.partial(Rouge, "rougeL"),
    "meteor": METEOR,
    "token_f1": TokenF1,
    "exact_match": functools.partial(ExactMatch, normalize="squad"),
    "edit_similarity": EditSimilarity,
    "length": functools.partial(Length, 20),
    "distinct_n": DistinctN,
    "format": functools.partial(Format, r"[A-Z].*\."),
    "keywords": functools.partial(Keywords, ["river", "pub", "near the"], forbidden=["bad"]),
    "slot_coverage": SlotCoverage,
}
PROMPTS_OF_STEP = 64
GROUP_OF_STEP = 4
REFERENCES_OF_ROW = 8
TOKEN = re.compile(r"\s?\w{1,6}|\s?[^\w\s]|\s")  # about as long as GPT-2's tokens
RECORD = "name[The Mill], food[French], area[city centre], near[Burger King]"


def measure_progress(rounds: int) -> dict[str, dict[str, Any]]:
    """Returns by name the milliseconds of a reward's `progress` and of itself; references are new in each round."""
    data = sentences(PROMPTS_OF_STEP, GROUP_OF_STEP, 1)
    shared = [data.references[row:] + data.references[:row] for row in range(PROMPTS_OF_STEP)]
    references = [[text for row in rows for text in row][:REFERENCES_OF_ROW] for rows in shared]
    texts = [text for row in data.completions[0] for text in row]
    prefixes = [Prefixes(text, [0, *(token.end() for token in TOKEN.finditer(text))]) for text in texts]
    columns: dict[str, list[Any]] = {
        "references": [row for row in references for _ in range(GROUP_OF_STEP)],
        "mr": [RECORD] * len(texts),
        "prompts": [""] * len(texts),
    }
    milliseconds: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for name, make in PROGRESS.items():
            clear_caches()
            reward = make()
            prefixes = [dataclasses.replace(each) for each in prefixes]  # copies without cached results
            itself, _ = timed(lambda reward=reward: reward(completions=texts, **columns))
            seconds, _ = timed(lambda reward=reward, new=prefixes: reward.progress(prefixes=new, **columns))
            milliseconds.setdefault(name, []).append((1000 * seconds, 1000 * itself))
    source = f"{data.source}, {sum(map(len, prefixes)) / len(prefixes):.0f} tokens"
    return {
        name: {"texts": source, "progress": median(a for a, _ in pairs), "reward": median(b for _, b in pairs)}
        for name, pairs in milliseconds.items()
    }


def clear_caches() -> None:
    """Empties every `lru_cache` of lmrl and of the libraries, which cache tokenized texts too."""
    for thing in gc.get_objects():
        if type(thing) is functools._lru_cache_wrapper and str(thing.__module__).split(".")[0] in CACHING:
            thing.cache_clear()


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Returns the processor time of a call in seconds, and its result."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def one_pass(rewards: list[Reward], library: Scorer, data: Texts, which: int) -> tuple[float, float, float]:
    """Returns the seconds of lmrl and of the library in a pass, and the largest difference between two scores."""
    lmrl_seconds = 0.0
    library_seconds = 0.0
    largest = 0.0
    for start in range(0, len(data.references), BATCH):
        rows = zip(data.completions[which][start : start + BATCH], data.references[start : start + BATCH], strict=True)
        pairs = [(text, references) for group, references in rows for text in group]
        columns = {"completions": [text for text, _ in pairs], "references": [references for _, references in pairs]}
        seconds, scores = timed(lambda given=columns: [reward(**given) for reward in rewards])
        lmrl_seconds += seconds
        seconds, expected = timed(lambda given=pairs: [library(*pair) for pair in given])
        library_seconds += seconds
        for own, row in zip(zip(*scores, strict=True), expected, strict=True):
            largest = max(largest, *(abs(a - b) for a, b in zip(own, row, strict=True)))
    return lmrl_seconds, library_seconds, largest


def measure(contest: Contest, data: Texts, rounds: int) -> dict[str, Any]:
    """Returns a row of the table: for each pass texts per second and their ratio, and the largest difference."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in PASSES}
    largest = 0.0
    one_pass(contest.rewards(), contest.library(), contest.texts(1, 1, 1), 0)  # imports happen on first use
    for _ in range(rounds):
        clear_caches()
        rewards = contest.rewards()
        library = contest.library()
        for which, name in enumerate(PASSES):
            lmrl_seconds, library_seconds, difference = one_pass(rewards, library, data, which)
            seconds[name].append((lmrl_seconds, library_seconds))
            largest = max(largest, difference)
    texts = sum(map(len, data.completions[0]))
    row: dict[str, Any] = {"texts": f"{data.source}, {len(data.references)} rows", "difference": largest}
    for name, pairs in seconds.items():
        row[name] = {
            "lmrl": median(texts / own for own, _ in pairs),
            "library": median(texts / other for _, other in pairs),
            "ratio": median(other / own for own, other in pairs),
        }
    return row


def table(results: dict[str, dict[str, Any]]) -> str:
    """Returns the aligned table."""
    columns = [f"{name}: {column}" for name in PASSES for column in ("lmrl/s", "library/s", "ratio")]
    rows = [["", "texts", *columns, "difference"]]
    for name, row in results.items():
        cells = [(f"{row[p]['lmrl']:.0f}", f"{row[p]['library']:.0f}", f"{row[p]['ratio']:.1f}") for p in PASSES]
        rows.append([name, row["texts"], *(cell for group in cells for cell in group), f"{row['difference']:.0e}"])
    return aligned(rows, left=2)


def parse() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = make_parser(__doc__)
    add_names(parser, "--only", CONTESTS)
    numbers: dict[str, tuple[int | None, str]] = {
        "rows": (60, "rows of references, fewer of slow metrics"),
        "completions": (4, "completions of each row in a pass"),
        "rounds": (3, "repetitions of all measurements"),
    }
    add_numbers(parser, numbers)
    parser.add_argument("--progress", action="store_true", help="measure the progress of rewards")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.progress:
        costs = measure_progress(arguments.rounds)
        lines = [[name, row["texts"], f"{row['progress']:.0f}", f"{row['reward']:.0f}"] for name, row in costs.items()]
        print(aligned([["", "texts", "progress (ms)", "reward (ms)"], *lines], left=2))
        write_results(arguments.json, arguments, costs)
        return
    results = {}
    for name in arguments.only:
        contest = CONTESTS[name]
        data = contest.texts(max(arguments.rows // contest.fewer, 1), arguments.completions, len(PASSES))
        results[name] = measure(contest, data, arguments.rounds)
        print(f"{name}: {results[name]['new']['ratio']:.1f} x", file=sys.stderr)
    print(f"{arguments.completions} completions of each row.\n\n{table(results)}\n\n{LEGEND}")
    write_results(arguments.json, arguments, results)
    if different := [name for name, row in results.items() if not row["difference"] <= EXACT]:
        raise SystemExit(f"error: scores differ by more than {EXACT:.0e} from the library's: {', '.join(different)}")


if __name__ == "__main__":
    main()
