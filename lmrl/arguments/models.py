"""Arguments of models: to train, to evaluate, and under a classifier."""

import importlib.util
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from trl import ModelConfig

from lmrl.arguments.checks import check_unread
from lmrl.utils import check_at_least, option


@dataclass
class CheckpointArguments:
    """The model to evaluate, and how checkpoints are loaded."""

    _argument_group_name = "Model"

    model_name_or_path: str | None = option(None, "Model to evaluate: folder or hub id. Default: lmrl's demo model.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = option("float32", "Precision of the weights.")
    attn_implementation: str | None = option(None, "Attention, for example flash_attention_2.")
    load_in_4bit: bool = option(False, "Load the weights in 4 bits.")

    def loading(self) -> dict[str, Any]:
        """Returns the options of `from_pretrained` for the weights: precision, attention, quantization."""
        return _loading(ModelConfig(**{name: getattr(self, name) for name in type(self).__dataclass_fields__}))


@dataclass
class ModelArguments(ModelConfig):
    """The model to train: TRL's [`~trl.ModelConfig`] with defaults for reinforcement learning."""

    _argument_group_name = "Model"

    model_name_or_path: str | None = option(None, "Model to start from: folder or hub id. Default: lmrl's demo model.")
    lora_dropout: float = option(
        0.0,
        "Dropout of the LoRA layers. Above 0, the policy that is trained differs from the policy that sampled the "
        "completions.",
    )
    lora_task_type: str = field(default="CAUSAL_LM", init=False)  # of the recipe, not of the user
    merge: bool = option(
        False,
        "Also write the adapter merged into its base. A plain model in the folder `merged` inside output_dir.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        target: Any = self.lora_target_modules
        # TRL makes a text of a list of one, for `all-linear`; PEFT takes a text for a pattern of complete names.
        if isinstance(target, str) and target.replace(".", "").isidentifier():
            self.lora_target_modules = [target]
        if self.load_in_8bit:
            raise ValueError(
                "`load_in_8bit` must be false, got true: in 8 bits the model that is trained is not the one that is "
                "sampled. Use `load_in_4bit`."
            )
        has_adapter = self.use_peft or Path(self.model_name_or_path or "", "adapter_config.json").is_file()
        for name, reason in (("merge", ""), ("load_in_4bit", ": quantized weights cannot be trained")):
            if getattr(self, name) and not has_adapter:
                raise ValueError(
                    f"`{name}` must be used with an adapter, got none{reason}. Add `use_peft`, or start from one."
                )
        if not self.use_peft:
            check_unread(self, [name for name in vars(self) if "lora" in name or name == "use_dora"], "use_peft")
        if not self.load_in_4bit:
            check_unread(self, [name for name in vars(self) if "bnb_" in name], "load_in_4bit")

    def loading(self, bf16: bool = False) -> dict[str, Any]:
        """Returns the options as above; `bf16`: products with quantized weights are in bfloat16, not in `dtype`."""
        return _loading(self, bf16)


def _loading(model_args: ModelConfig, bf16: bool = False) -> dict[str, Any]:
    options = {"dtype": model_args.dtype, "attn_implementation": model_args.attn_implementation}
    if not model_args.load_in_4bit:
        return options
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("`load_in_4bit` needs bitsandbytes, which is not installed. Install lmrl[quantization].")
    from trl import get_quantization_config  # imports torch

    own = replace(model_args, dtype="bfloat16") if bf16 else model_args
    return {**options, "quantization_config": get_quantization_config(own)}


@dataclass
class ClassifierArguments:
    """The model under a classifier."""

    _argument_group_name = "Model"

    model_name_or_path: str = option(
        "scratch", "Model under the new head: folder, hub id or scratch. `scratch` is a small random encoder."
    )
    max_length: int = option(128, "Maximum number of tokens of a text; longer ones are cut.")

    def __post_init__(self) -> None:
        check_at_least(1, max_length=self.max_length)
