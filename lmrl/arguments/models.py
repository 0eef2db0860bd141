"""Arguments of models: to train, to evaluate, and under a classifier."""

import importlib.util
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from trl import ModelConfig

from lmrl.settings import Settings, check_unread, is_given
from lmrl.utils import check_at_least, option, read_adapter_config

# Defaults for the settings of a new adapter.
_NEW_ADAPTER = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "lora_target_modules": "all-linear"}

# Settings of an adapter, and their names in its adapter_config.json.
_ADAPTER_SETTINGS = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": "target_modules",
    "lora_target_parameters": "target_parameters",
    "lora_modules_to_save": "modules_to_save",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}


@dataclass
class CheckpointArguments(Settings):
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
class ModelArguments(Settings, ModelConfig):
    """The model to train: TRL's [`~trl.ModelConfig`] with defaults for reinforcement learning."""

    _argument_group_name = "Model"

    model_name_or_path: str | None = option(None, "Model to start from: folder or hub id. Default: lmrl's demo model.")
    use_peft: bool = option(
        False,
        "Train LoRA, by default at ten times the rate. In place of all weights, on all linear layers, at ten times "
        "the default learning_rate of all weights, unless others are given.",
    )
    lora_r: int | None = option(None, "Rank of the LoRA layers. Default: 16, or that of the adapter it starts from.")
    lora_alpha: int | None = option(
        None, "Scale of the LoRA layers, over their rank. Default: 32, or that of the adapter it starts from."
    )
    lora_dropout: float | None = option(
        None,
        "Dropout of the LoRA layers. Default: 0, or that of the adapter it starts from. Above 0, the policy that is "
        "trained differs from the policy that sampled the completions.",
    )
    lora_target_modules: list[str] | None = option(
        None,
        "Layers with LoRA; by default all linear ones. Names, one regular expression, or all-linear, which leaves out "
        "the embeddings and the LM head. An adapter that is trained further keeps its own.",
    )
    lora_task_type: str = field(default="CAUSAL_LM", init=False)  # set by the recipe, not by the user
    merge: bool = option(
        False,
        "Also write the adapter merged into its base. A plain model in the folder `merged` inside output_dir.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        target: Any = self.lora_target_modules
        # TRL turns a list of one into a text, for `all-linear`; PEFT reads a text as a pattern for complete names.
        if isinstance(target, str) and target.replace(".", "").isidentifier():
            self.lora_target_modules = [target]
        if self.load_in_8bit:
            raise ValueError(
                "`load_in_8bit` must be false, got true: in 8 bits the model that is trained is not the one that is "
                "sampled. Use `load_in_4bit`."
            )
        given = self._given_adapter()
        for name, reason in (("merge", ""), ("load_in_4bit", ": quantized weights cannot be trained")):
            if getattr(self, name) and not self.use_peft and given is None:
                raise ValueError(
                    f"`{name}` must be used with an adapter, got none{reason}. Add `use_peft`, or start from one."
                )
        self._set_lora(given)
        if not self.load_in_4bit:
            check_unread(self, [name for name in vars(self) if "bnb_" in name], "load_in_4bit")

    def peft_config(self) -> Any:
        """Returns the configuration of a new adapter; `None` if none is to be made, as for a model that is one."""
        from trl import get_peft_config  # imports torch

        return None if self._given_adapter() is not None else get_peft_config(self)

    def _given_adapter(self) -> dict[str, Any] | None:
        """Returns the configuration of the adapter in `model_name_or_path`, `None` for a complete model."""
        return read_adapter_config(self.model_name_or_path) if self.model_name_or_path else None

    def _set_lora(self, adapter: dict[str, Any] | None) -> None:
        """Fills in the settings of LoRA: those of the adapter that is trained further, or a new one's defaults."""
        if adapter is not None:
            self._go_on_with(adapter)
        elif not self.use_peft:
            check_unread(self, [name for name in vars(self) if "lora" in name or name == "use_dora"], "use_peft")
        else:
            for name, default in _NEW_ADAPTER.items():
                if getattr(self, name) is None:
                    setattr(self, name, default)

    def _go_on_with(self, adapter: dict[str, Any]) -> None:
        """Takes the settings of an adapter that is trained further; raises an error for a different given one."""
        for name, name_in_peft in _ADAPTER_SETTINGS.items():
            given = getattr(self, name)
            found = adapter.get(name_in_peft)
            is_same = set(given) == set(found or ()) if isinstance(given, list) else given == found
            if given is None or not is_given(self, name):
                setattr(self, name, found)
            elif not is_same and given != "all-linear":  # its layers are known once the model is loaded
                raise ValueError(
                    f"`{name}` must be that of the adapter {self.model_name_or_path!r}, {found}, which is trained "
                    f"further, got {given}. Leave it out. To train a new adapter, merge this one into its base first: "
                    f"lmrl merge {self.model_name_or_path} NEW_FOLDER."
                )

    def loading(self, bf16: bool = False) -> dict[str, Any]:
        """Returns the options of `from_pretrained`; `bf16`: quantized weights compute in bfloat16, not in `dtype`."""
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
class ClassifierArguments(Settings):
    """The model under a classifier."""

    _argument_group_name = "Model"

    model_name_or_path: str = option(
        "scratch", "Model under the new head: folder, hub id or scratch. `scratch` is a small random encoder."
    )
    max_length: int = option(128, "Maximum number of tokens of a text; longer ones are cut.")

    def __post_init__(self) -> None:
        check_at_least(1, max_length=self.max_length)
