"""The defaults of the supervised recipes on a CPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments
from trl import SFTConfig

from lmrl.precision import BF16_PAYS, bf16_speedup
from lmrl.supervised import RecipeConfig

pytestmark = pytest.mark.skipif(torch.accelerator.is_available(), reason="defaults of a CPU")


@dataclass
class OfTRL(RecipeConfig, SFTConfig):
    """TRL recomputes activations, and trains in bfloat16, by default."""


@dataclass
class OfTransformers(RecipeConfig, TrainingArguments):
    """transformers does neither."""


@pytest.mark.parametrize("config_class", [OfTRL, OfTransformers])
def test_a_cpu_keeps_activations_and_has_the_precision_that_it_multiplies_faster(
    config_class: Any, tmp_path: Path
) -> None:
    config = config_class(str(tmp_path), report_to=[])
    assert config.use_cpu and config.gradient_checkpointing is False
    speedup = bf16_speedup()
    if not 0.7 < speedup / BF16_PAYS < 1.4:  # else two measurements may differ
        assert config.bf16 is (speedup > BF16_PAYS)


@pytest.mark.parametrize("config_class", [OfTRL, OfTransformers])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"gradient_checkpointing": True, "bf16": False}, {"gradient_checkpointing": True, "bf16": False}),
        ({"activation_checkpointing": True, "bf16": True}, {"gradient_checkpointing": True, "bf16": True}),
    ],
)
def test_what_is_set_stays(
    config_class: Any, given: dict[str, bool], expected: dict[str, bool], tmp_path: Path
) -> None:
    config = config_class(str(tmp_path), report_to=[], **given)
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_precision_of_the_launcher_is_not_overruled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    config = OfTRL(str(tmp_path), report_to=[])
    assert (config.bf16, config.mixed_precision) == (False, "bf16")


def test_the_attention_that_has_gradients_of_nan_is_turned_off(tmp_path: Path) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    OfTransformers(str(tmp_path))
    assert torch.backends.cuda.cudnn_sdp_enabled() is False
