"""Rows with a "prompt" column and the columns that the rewards read. Light to import: `datasets` is loaded on use."""

from lmrl.data.demo import demo_model_path, demo_rows
from lmrl.data.prompts import fit_prompts, load_prompts, split_held_out, to_supervised
from lmrl.data.splits import load_held_out, load_splits

__all__ = [
    "demo_model_path",
    "demo_rows",
    "fit_prompts",
    "load_held_out",
    "load_prompts",
    "load_splits",
    "split_held_out",
    "to_supervised",
]
