"""Defaults of the supervised recipes, which depend on the machine."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainingArguments

from lmrl.arguments import OutputArguments
from lmrl.arguments.checks import json_object
from lmrl.distributed import on_main
from lmrl.precision import BF16_PAYS, avoid_cudnn_attention, bf16_speedup
from lmrl.settings import check_length
from lmrl.utils import check_in, option


@dataclass
class RecipeConfig(OutputArguments):
    """What the configurations of the supervised recipes add to those of TRL and transformers, as their first base."""

    gradient_checkpointing: bool | None = option(
        None,
        "Recompute activations in the backward pass. Less memory, more time. Default: off on a CPU, on a GPU as TRL "
        "and transformers have it.",
    )
    bf16: bool | None = option(
        None,
        "Mixed precision in bfloat16. Default: on a GPU as TRL and transformers have it; on a CPU on where a "
        "measurement of milliseconds finds that it multiplies faster so, unless fp16 is set.",
    )

    def __post_init__(self) -> None:
        """Chooses the CPU where there is no GPU, and sets the two defaults above; checks values."""
        base: Any = super()
        check_length(self)
        avoid_cudnn_attention()
        if not torch.accelerator.is_available():
            self.use_cpu = True
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed finds no other either, but warns
        on_cpu: bool = self.use_cpu
        if self.gradient_checkpointing is None and getattr(self, "activation_checkpointing", None) is None:
            self.gradient_checkpointing = False if on_cpu else base.gradient_checkpointing
        if self.bf16 is None:
            self.bf16 = _multiplies_bf16_faster(self) if on_cpu else base.bf16
        check_in(("loss", "eval_loss"), metric_for_best_model=getattr(self, "metric_for_best_model", None))
        base.__post_init__()


@dataclass
class WarmStartConfig(RecipeConfig):
    """What the configuration of a warm start adds."""

    chat_template_kwargs: dict[str, Any] | str | None = option(None, "Variables of the chat template, as JSON.")

    def __post_init__(self) -> None:
        if isinstance(self.chat_template_kwargs, str):
            self.chat_template_kwargs = json_object("chat_template_kwargs", self.chat_template_kwargs)
        super().__post_init__()


def _multiplies_bf16_faster(config: Any) -> bool:
    """Returns what the main process measures, on every process; False where fp16, Accelerate or an engine decides."""
    given = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no"
    by_engine = config.deepspeed or any(f"ACCELERATE_USE_{name}" in os.environ for name in ("DEEPSPEED", "FSDP"))
    if config.fp16 or given or by_engine:
        return False
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        PartialState(cpu=True, backend=config.ddp_backend)  # as transformers will find it
    return on_main(lambda: bf16_speedup() > BF16_PAYS)


def check_defaults(config: TrainingArguments, *names: str) -> None:
    """Raises a `ValueError` for the first setting that is changed, where the held-out scores need its default."""
    for name in names:
        if getattr(config, name) != getattr(TrainingArguments, name):
            raise ValueError(f"`{name}` must have its default, got {getattr(config, name)}: the scores need it.")
