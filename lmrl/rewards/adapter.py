"""A reward model that is a LoRA adapter saved with its head, on a base of its own or on that of a policy."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmrl.utils import reason_of

from .models import load_classifier

if TYPE_CHECKING:
    import torch


class RewardAdapter:
    """
    The adapter in a folder, before any weight of its base is loaded.

    Args:
        folder (`str`):
            Folder written by `save_pretrained` of a PEFT model.
        quantized_base (`bool`):
            Whether it may run on quantised weights, as in its training.

    Attributes:
        config ([`~transformers.PreTrainedConfig`]): that of the base.
        labels (`int` or `None`): outputs of the head that was saved with the adapter; `None` if none was.

    Raises:
        ValueError: If the adapter names no base, or one that cannot be loaded.
    """

    def __init__(self, folder: str, quantized_base: bool):
        from peft import PeftConfig
        from transformers import AutoConfig

        self.folder = folder
        self.quantized_base = quantized_base
        self._adapter = PeftConfig.from_pretrained(folder)
        self.base = str(self._adapter.base_model_name_or_path)
        try:
            self.config = AutoConfig.from_pretrained(self.base, revision=self._adapter.revision or "main")
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`base_model_name_or_path` of the adapter {folder!r} must be a model, got {self.base!r} "
                f"({reason_of(error)}). Correct it in adapter_config.json."
            ) from error
        self._heads = self._saved_heads()
        self.labels = next(iter(self._heads.values()), None)

    def _saved_heads(self) -> dict[str, int]:
        """Returns the outputs of each module that was saved in full, by its name."""
        from safetensors import safe_open

        wanted = self._adapter.modules_to_save or ()
        with safe_open(Path(self.folder) / "adapter_model.safetensors", "pt") as weights:
            places = {name.split(".")[-2]: name for name in list(weights.keys()) if name.endswith(".weight")}
            return {
                module: weights.get_slice(name).get_shape()[0] for module, name in places.items() if module in wanted
            }

    def load_merged(self) -> Any:
        """Returns its base with the adapter merged and the head that was saved with it."""
        from peft import PeftModel

        revision = self._adapter.revision or "main"
        head = self._adapter.modules_to_save or ()
        with _forked_rng():
            base = load_classifier(self.base, "reward model", trained=head, num_labels=1, revision=revision)
            return PeftModel.from_pretrained(base, self.folder).merge_and_unload()

    def load_on_backbone(self, backbone: Any) -> Any:
        """
        Returns the adapter with its head on the base weights of a policy, which stay as they are.

        Args:
            backbone ([`~transformers.PreTrainedModel`]):
                The base without its head. Its modules may be changed, its weights may not.
        """
        import torch
        from peft import PeftModel
        from transformers import AutoModelForSequenceClassification

        options = self.config.to_dict()
        options = {name: value for name, value in options.items() if name not in ("id2label", "label2id")}
        config = type(self.config).from_dict({**options, "num_labels": 1})
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config, dtype=backbone.dtype)
        setattr(model, model.base_model_prefix, backbone)
        for name, child in model.named_children():
            if name != model.base_model_prefix:
                child.to_empty(device=backbone.device)
        if random := [name for name in _outside(model) if name.split(".")[0] not in self._heads]:
            raise ValueError(f"The adapter {self.folder!r} must have all weights of its head, got none of {random}.")
        with _forked_rng():
            return PeftModel.from_pretrained(model, self.folder, torch_device=str(backbone.device))

    def incompatibility_with(self, backbone: Any, device: str | None) -> str | None:
        """Returns the reason why its scores would differ on a backbone, or `None` if they would not."""
        config = backbone.config
        quantized = bool(getattr(backbone, "is_quantized", False))
        if not _same_source(self.base, str(config._name_or_path)):
            return f"the policy's base is another one, {config._name_or_path!r}"
        if getattr(config, "_commit_hash", None) != getattr(self.config, "_commit_hash", None):
            return "the policy's base is another revision"
        if quantized != self.quantized_base:
            return f"the policy's base is {'' if quantized else 'not '}quantised (see `quantized_base`)"
        if not quantized and _digits(backbone.dtype) < _digits(self.config.dtype):
            return f"the policy's base is held in {backbone.dtype}, less precise than the checkpoint's"
        if config.get_text_config().vocab_size != self.config.get_text_config().vocab_size:
            return "the policy's base has another vocabulary"
        if hasattr(backbone, "_hf_hook"):
            return "the policy's base is spread over devices"
        if device is not None and backbone.device.type != device.split(":")[0]:
            return f"the policy is on {backbone.device} and the reward model is to be on {device}"
        return None


def _forked_rng() -> AbstractContextManager[None]:
    """Keeps the global RNG state unchanged while weights are initialized before they are loaded."""
    import torch

    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


def _outside(model: Any) -> list[str]:
    return [name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")]


def _same_source(one: str, other: str) -> bool:
    if Path(one).is_dir() and Path(other).is_dir():
        return Path(one).samefile(other)
    return one == other


def _digits(dtype: "torch.dtype | str | None") -> float:
    import torch

    found = getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32
    return -torch.finfo(found).eps
