"""An adapter and its base as one plain model."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel

from .loading import load_model

MERGED_FOLDER = "merged"


def write_merged(folder: str | Path, **kwargs: Any) -> Path:
    """
    Returns the folder `merged` inside that of an adapter, where the adapter merged into its base is written, as a
    plain model with its tokenizer.

    The base is loaded from where the adapter says, with whole weights also where the adapter was trained on quantised
    ones, which could not hold the sum.

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
        raise ValueError(f"{str(folder)!r} holds no adapter (no adapter_config.json), so there is nothing to merge.")
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
            raise ValueError(f"The adapter in {str(folder)!r} was saved without a head: it cannot be merged.")
        labels = weights.get_slice(heads[0]).get_shape()[0]
    return AutoPeftModelForSequenceClassification.from_pretrained(
        folder, num_labels=labels, **kwargs
    ).merge_and_unload()
