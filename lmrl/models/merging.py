"""Merging of an adapter into its base."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from .loading import load_merged_classifier, load_model

MERGED_FOLDER = "merged"


def write_merged(folder: str | Path, **kwargs: Any) -> Path:
    """
    Writes an adapter merged into its base, as a model with its tokenizer, into the subfolder `merged`; returns that.

    The base is loaded from the place that the adapter's config names, unquantised also where the adapter was trained
    on quantised weights, which could not hold the sum.

    Args:
        folder (`str` or `Path`):
            Folder of an adapter of a causal language model, or of a classifier whose head is saved with it.
        **kwargs:
            Passed on to `from_pretrained`, such as `dtype`.

    Raises:
        ValueError: If there is no adapter in the folder, or its base cannot be loaded.
    """
    from peft import PeftConfig

    if not (Path(folder) / "adapter_config.json").is_file():
        raise ValueError(f"A folder to merge must hold an adapter, got {str(folder)!r} without adapter_config.json.")
    classifies = PeftConfig.from_pretrained(str(folder)).task_type == "SEQ_CLS"
    model = load_merged_classifier(Path(folder), **kwargs) if classifies else load_model(folder, **kwargs)
    place = Path(folder) / MERGED_FOLDER
    model.save_pretrained(place)
    AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    return place
