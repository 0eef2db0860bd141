"""Merging of an adapter into its base."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel

from .loading import load_model

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
    model = _merged_classifier(Path(folder), **kwargs) if classifies else load_model(folder, **kwargs)
    place = Path(folder) / MERGED_FOLDER
    model.save_pretrained(place)
    AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    return place


def _merged_classifier(folder: Path, **kwargs: Any) -> PreTrainedModel:
    from peft import AutoPeftModelForSequenceClassification
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        heads = [name for name in weights.keys() if name.split(".")[-2] in ("score", "classifier")]  # noqa: SIM118
        if not heads:
            raise ValueError(
                f"The adapter of a classifier must be saved with its head to be merged, got {str(folder)!r} without."
            )
        labels = weights.get_slice(heads[0]).get_shape()[0]
    return AutoPeftModelForSequenceClassification.from_pretrained(
        folder, num_labels=labels, **kwargs
    ).merge_and_unload()
