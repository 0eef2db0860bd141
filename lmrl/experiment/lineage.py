"""From which models a trained model was made, and which weights were trained: facts for its card, from its files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmrl.evaluation.reporting.card import hub_id, local_name, options_text
from lmrl.experiment.policies import layers_text
from lmrl.experiment.runs import find_run, read_run
from lmrl.utils import read_adapter_config

_PRECISION = ("dtype", "bf16", "fp16")
_OF_ADAPTER = (
    *("r", "lora_alpha", "lora_dropout", "target_modules", "target_parameters", "modules_to_save"),
    *("use_dora", "use_rslora"),
)
_OF_4_BITS = ("bnb_4bit_quant_type", "use_bnb_nested_quant")
_SCRATCH = "scratch"  # the name of a new model in `train_classifier.py` and `train_reward_model.py`
_MAX_RUNS = 20  # a longer chain can only be a circle of folders


@dataclass(frozen=True)
class Lineage:
    """The origin of a trained model."""

    start: str  # Markdown about the model that training started from
    weights: str  # Markdown about what was trained: all weights, or an adapter with its settings and its base
    base_model: str | None = None  # the Hub's model at the beginning of the chain
    is_adapter: bool = False  # whether the folder has an adapter in place of a model


def lineage_of(folder: str | Path, config: Mapping[str, Any]) -> Lineage:
    """Returns the origin of the trained model, or adapter, in a folder; `config` has the run's settings."""
    start = config.get("model_name_or_path")
    adapter = read_adapter_config(folder)
    start_adapter = read_adapter_config(start) if start else None
    root = _root(start)
    text = _named(start)
    if start_adapter is not None:
        text = f"The adapter {text} on {_named(start_adapter.get('base_model_name_or_path'))}"
    elif root != start:
        text = f"{text}, made from {_named(root)}"
    if start == _SCRATCH:
        text = "A small model with random weights"
        root = None
    if adapter is None:
        weights = f"All weights were trained: {options_text(config, *_PRECISION)}"
    else:
        weights = _adapter_text(adapter, config, continued=_named(start) if start_adapter is not None else None)
    return Lineage(text, weights, hub_id(root), is_adapter=adapter is not None)


def _named(model: object) -> str:
    """Returns the name of a model as Markdown: a link to the Hub, or the last part of a local path."""
    return f"[{model}](https://huggingface.co/{model})" if hub_id(model) else local_name(model or "lmrl's demo")


def _adapter_text(adapter: Mapping[str, Any], config: Mapping[str, Any], continued: str | None) -> str:
    """Returns a description of the adapter that was trained, and of its base."""
    facts = {name: value for name, value in adapter.items() if value not in (0, 0.0, [])}
    has_all = config.get("lora_target_modules") == "all-linear"
    if "target_modules" in facts:
        facts["target_modules"] = "all-linear" if has_all else layers_text(facts["target_modules"])
    base = _named(adapter.get("base_model_name_or_path"))
    first = f", continued from the adapter {continued}" if continued else ""
    bits = f" in 4 bits ({options_text(config, *_OF_4_BITS)})" if config.get("load_in_4bit") else ""
    lora = options_text(facts, *_OF_ADAPTER)
    return (
        f"LoRA on {base}{bits}, whose own weights were not trained{first}: {lora}, {options_text(config, *_PRECISION)}"
    )


def _root(model: str | None) -> str | None:
    """Returns the first model of the chain, going from an adapter to its base, and from a run to its start model."""
    for _ in range(_MAX_RUNS):
        adapter = read_adapter_config(model) if model else None
        earlier = adapter.get("base_model_name_or_path") if adapter else None
        if earlier is None and model is not None and find_run(model) is not None:
            earlier = read_run(model).settings.get("model", {}).get("model_name_or_path")
        if not earlier or earlier == model:
            break
        model = earlier
    return model
