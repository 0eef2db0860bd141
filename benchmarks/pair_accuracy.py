"""How often length, BLEU, chrF and reward models prefer the text that people graded higher, on the same pairs.

    python benchmarks/pair_accuracy.py --config recipes/configs/webnlg_minilm.yaml --reward_models runs/webnlg_minilm

The pairs are those that `recipes/train_reward_model.py` holds out with this file. The data have no references: BLEU
and chrF compare a text with the texts of all other systems about the same record, without the two of the pair; pairs
of a record without further texts are left out. Intervals are over records.
"""

import argparse
import inspect
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from _common import aligned

from lmrl.data import load_pairs
from lmrl.rewards import BLEU, ChrF, Reward, RewardModel
from lmrl.supervised.scores import clustered_interval, evaluate_preferences

Pairs = Sequence[Mapping[str, Any]]


def main() -> None:
    """Prints a line for each of these rewards."""
    args = _arguments()
    settings = yaml.safe_load(args.config.read_text(encoding="utf-8"))
    settings |= {"dataset_name": args.dataset_name or settings["dataset_name"]}
    accepted = inspect.signature(load_pairs).parameters
    _, held_out = load_pairs(**{name: value for name, value in settings.items() if name in accepted})
    every: Pairs = held_out.to_list()
    known = [(pair, others) for pair, others in zip(every, _others(every), strict=True) if others]
    if not known:
        sys.exit("error: every record has two texts alone: none is left to compare them with.")
    pairs: Pairs = [pair for pair, _ in known]
    references = [others for _, others in known]
    records = [repr(pair["prompt"]) for pair in pairs]
    lengths = [len(pair["chosen"]) - len(pair["rejected"]) for pair in pairs]
    shorter_is_better = np.sign(lengths).sum() < 0
    margins: dict[str, Any] = {
        "shorter" if shorter_is_better else "longer": -np.array(lengths) if shorter_is_better else np.array(lengths),
        "bleu": _margins(BLEU(), pairs, references),
        "chrf": _margins(ChrF(), pairs, references),
    }
    errors = {}
    for path in args.reward_models:
        scores = evaluate_preferences(RewardModel(path), pairs)
        margins[path] = np.array(scores["margins"])
        errors[path] = f"{scores['expected_calibration_error']:.3f}"
    right = {name: (np.sign(values) + 1) / 2 for name, values in margins.items()}
    lines = [["", "right [95 % CI]", "minus BLEU [95 % CI]", "calibration error"]]
    for name, values in right.items():
        more = _with_interval(values - right["bleu"], records, "+")
        lines.append([name, _with_interval(values, records), more, errors.get(name, "")])
    print(f"{len(pairs)} pairs of {len(set(records))} records")
    if len(pairs) < len(every):
        print(f"left out: {len(every) - len(pairs)} pairs of records without a further text")
    print(aligned(lines))


def _others(pairs: Pairs) -> list[list[str]]:
    """Returns for each pair the other texts about its record, none if the record has only the two of the pair."""
    texts: defaultdict[str, dict[str, None]] = defaultdict(dict)  # in the order of the rows
    for pair in pairs:
        texts[repr(pair["prompt"])] |= dict.fromkeys((pair["chosen"], pair["rejected"]))
    return [
        [text for text in texts[repr(pair["prompt"])] if text not in (pair["chosen"], pair["rejected"])]
        for pair in pairs
    ]


def _margins(reward: Reward, pairs: Pairs, references: Sequence[Sequence[str]]) -> Any:
    """Returns the reward of the chosen text of each pair minus that of the rejected one."""
    values = {
        kind: reward(completions=[pair[kind] for pair in pairs], references=references)
        for kind in ("chosen", "rejected")
    }
    return np.subtract(values["chosen"], values["rejected"])


def _with_interval(values: Any, records: Sequence[str], sign: str = "") -> str:
    """Returns a mean with its interval over records."""
    interval = clustered_interval(values.tolist(), records)
    return f"{interval.value:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML file of train_reward_model, for graded texts")
    parser.add_argument("--dataset_name", help="graded texts; default: those that the file names")
    parser.add_argument("--reward_models", nargs="*", default=[], help="folders of reward models")
    return parser.parse_args()


if __name__ == "__main__":
    main()
