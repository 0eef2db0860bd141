"""A training run in words, from its settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .curves import Log, curve
from .markdown import code
from .wording import number


def training_lines(algorithm: str, settings: Mapping[str, object], config: Mapping[str, Any], log: Log) -> list[str]:
    """
    Returns what was done, a sentence or less to a line, as Markdown.

    Args:
        algorithm (`str`):
            Name of the algorithm.
        settings (`dict`):
            Settings of the algorithm worth reporting, by name.
        config (`dict`):
            All settings of the run, by the names that the recipes have.
        log (list of `dict`):
            The log history.
    """
    method = ": ".join(filter(None, [algorithm, _listed(settings, *settings)]))
    return [method, *_amount(config, log), _kl(config, log), _weights(config)]


def data_lines(config: Mapping[str, Any]) -> list[str]:
    """
    Returns what was trained and measured on, as Markdown; of files and folders the last part of their name.

    Args:
        config (`dict`):
            All settings of the run, by the names that the recipes have.
    """
    dataset, held_out = config.get("dataset_name"), config.get("eval_dataset_name")
    measured = _short(held_out) if held_out else "held-out rows of it"
    lines = [f"Trained on {_short(dataset)}, measured on {measured}."]
    for name in ("prompt_template", "reference_column", "system_prompt", "max_train_rows"):
        if config.get(name):
            lines.append(f"{code(name)}: {code(config[name])}")
    return lines


def _amount(config: Mapping[str, Any], log: Log) -> list[str]:
    steps = max((int(row["step"]) for row in log if "step" in row), default=0)
    rollout = _listed(config, "generation_batch_size", "num_generations")
    rate = _listed(config, "learning_rate", "lr_scheduler_type", "seed")
    sampling = _listed(config, "temperature", "max_completion_length", "missing_eos_penalty")
    return [f"{steps} optimiser steps: {rollout}, {rate}", f"Sampled with {sampling}"]


def _kl(config: Mapping[str, Any], log: Log) -> str:
    if not config.get("beta"):
        return "No KL penalty."
    name = config.get("reference_model_name_or_path")
    reference = _short(name) if name else "the model that this training started from"
    found = curve(log, "kl_per_sequence")
    ended = f" It ended at {number(found[-1][1])} nats per sampled completion." if found else ""
    return f"KL penalty to {reference}: {_listed(config, 'beta', 'kl_target', 'max_kl')}.{ended}"


def _weights(config: Mapping[str, Any]) -> str:
    if not config.get("use_peft"):
        return f"All weights, {_listed(config, 'dtype', 'bf16', 'fp16')}"
    options = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_dora", "use_rslora")
    return f"LoRA: {_listed(config, *options, 'dtype', 'bf16', 'fp16')}"


def _listed(config: Mapping[str, Any], *names: str) -> str:
    """Returns those settings that are set: 0 is a value, None and False are none."""
    given = {name: config.get(name) for name in names}
    shown = {name: value for name, value in given.items() if value is not None and value is not False}
    return ", ".join(code(f"{name}={getattr(value, '__name__', value)}") for name, value in shown.items())


def _short(name: object) -> str:
    """Returns the name of the Hub, or the last part of a path, as code: a card says nothing of a machine's folders."""
    text = str(name)
    return code(Path(text).name if Path(text).exists() else text)
