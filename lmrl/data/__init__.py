"""Data: rows with prompts, labels or pairs, their splits, and the demo. `datasets` is imported on first use."""

from lmrl.data.demo import demo_model_path, demo_rows
from lmrl.data.labels import load_labelled
from lmrl.data.pairs import load_pairs, pairs_of_graded
from lmrl.data.prompts import fit_prompts, load_prompts, to_supervised
from lmrl.data.splits import held_out_split, load_held_out, load_splits, split_held_out

__all__ = [
    "demo_model_path",
    "demo_rows",
    "fit_prompts",
    "held_out_split",
    "load_held_out",
    "load_labelled",
    "load_pairs",
    "load_prompts",
    "load_splits",
    "pairs_of_graded",
    "split_held_out",
    "to_supervised",
]
