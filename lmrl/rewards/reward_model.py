"""A model trained on human preferences as a reward: the format of its inputs, its LoRA adapter, the reward."""

import functools
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

from lmrl.libraries import Tensor, peft, torch, transformers
from lmrl.progress import HeadOutputs, Prefixes, Progress
from lmrl.utils import reason_of

from .base import Prompts, Scores, completion_text
from .models import FrozenModel, load_classifier

logger = logging.getLogger(__name__)


def format_for_reward_model(tokenizer: Any, prompt: Any, completion: Any, **options: Any) -> Any:
    """
    Returns the tokens of a prompt and its completion as TRL's `RewardTrainer` makes them.

    A text is `prompt + completion + eos_token`, with nothing in between, and the special tokens that the tokenizer
    adds. The EOS, where the score is read, is added unless the completion ends with it: a policy's completions come
    without it. A chat is the messages of both through the chat template, without an added EOS.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The reward model's tokenizer.
        prompt (`str`, `list[dict]` or `None`):
            Text or chat messages. `None` is no prompt.
        completion (`str` or `list[dict]`):
            Text or chat messages. After a chat, a text is taken as the assistant's message; after a text, messages are
            turned into their [`completion_text`].
        **options:
            Passed on to the tokenizer, such as `truncation` and `max_length`. Its `BatchEncoding` is returned.

    Raises:
        ValueError: If a text is to be formatted and the tokenizer has no EOS token.
    """
    if not isinstance(completion if prompt is None else prompt, str):
        reply = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else list(completion)
        return tokenizer.apply_chat_template([*(prompt or ()), *reply], tokenize=True, return_dict=True, **options)
    if tokenizer.eos_token is None:
        raise ValueError(
            "`tokenizer` must have an EOS token, as a reward model is trained on texts that end in one, got one "
            "without. Set its `eos_token`."
        )
    text = completion_text(completion)
    text += "" if text.endswith(tokenizer.eos_token) else tokenizer.eos_token
    return tokenizer((prompt or "") + text, **options)


class RewardAdapter:
    """
    The adapter in a folder written by `save_pretrained`, before any weight of its base is loaded.

    Attributes:
        config ([`~transformers.PreTrainedConfig`]): that of the base.
        labels (`int` or `None`): outputs of the head that was saved with the adapter; `None` if none was.

    Raises:
        ValueError: If the adapter names no base, or one that cannot be loaded.
    """

    def __init__(self, folder: str, quantized_base: bool):
        self.folder = folder
        self.quantized_base = quantized_base
        self._adapter = peft.PeftConfig.from_pretrained(folder)
        self.base = str(self._adapter.base_model_name_or_path)
        self._revision = self._adapter.revision or "main"
        try:
            self.config = transformers.AutoConfig.from_pretrained(self.base, revision=self._revision)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`base_model_name_or_path` of the adapter {folder!r} must be a model, got {self.base!r} "
                f"({reason_of(error)}). Correct it in adapter_config.json."
            ) from error
        self._heads = self._saved_heads()
        self.labels = next(iter(self._heads.values()), None)

    def _saved_heads(self) -> dict[str, int]:
        """Returns the number of outputs of each module saved in full with the adapter, by name."""
        from safetensors import safe_open

        wanted = self._adapter.modules_to_save or ()
        with safe_open(Path(self.folder) / "adapter_model.safetensors", "pt") as weights:
            places = {name.split(".")[-2]: name for name in list(weights.keys()) if name.endswith(".weight")}
            return {
                module: weights.get_slice(name).get_shape()[0] for module, name in places.items() if module in wanted
            }

    def load_merged(self) -> Any:
        """Returns the base with the adapter merged into it, and the head that was saved with the adapter."""
        head = self._adapter.modules_to_save or ()
        with _forked_rng():
            base = load_classifier(self.base, "reward model", trained=head, num_labels=1, revision=self._revision)
            return peft.PeftModel.from_pretrained(base, self.folder).merge_and_unload()

    def load_on_backbone(self, backbone: Any) -> Any:
        """Returns the adapter and its head on top of a policy's backbone, whose weights are not changed."""
        labels = ("id2label", "label2id")
        options = {name: value for name, value in self.config.to_dict().items() if name not in labels}
        config = type(self.config).from_dict({**options, "num_labels": 1})
        with torch.device("meta"):
            model = transformers.AutoModelForSequenceClassification.from_config(config, dtype=backbone.dtype)
        setattr(model, model.base_model_prefix, backbone)
        for name, child in model.named_children():
            if name != model.base_model_prefix:
                child.to_empty(device=backbone.device)
        own = {name.split(".")[0] for name, _ in model.named_parameters()} - {model.base_model_prefix}
        if random := sorted(own - self._heads.keys()):
            raise ValueError(f"The adapter {self.folder!r} must have all weights of its head, got none of {random}.")
        with _forked_rng():
            return peft.PeftModel.from_pretrained(model, self.folder, torch_device=str(backbone.device))

    def incompatibility_with(self, backbone: Any, device: str | None) -> str | None:
        """Returns why the adapter cannot run on a policy's backbone with the same scores, or `None` if it can."""
        config = backbone.config
        quantized = bool(getattr(backbone, "is_quantized", False))
        source = Path(config._name_or_path)
        same_folder = source.is_dir() and Path(self.base).is_dir() and source.samefile(self.base)
        if not same_folder and self.base != config._name_or_path:
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
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


def _digits(dtype: "torch.dtype | str | None") -> float:
    found = getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32
    return -torch.finfo(found).eps


@dataclass(eq=False, repr=False)
class RewardModel(FrozenModel):
    """
    Returns the logit of a reward model for each completion, which grows with the preference of people.

    Only differences have a meaning: the probability that people prefer a to b is `sigmoid(r(a) - r(b))`. "Learning to
    summarize from human feedback" (Stiennon et al., 2020, https://arxiv.org/abs/2009.01325). The model is one trained
    by TRL's `RewardTrainer` (`recipes/train_reward_model.py`), and reads texts in the format of its training:
    [`format_for_reward_model`]. A completion that was stopped before it ended is read as if it had ended.

    A LoRA adapter that was saved with its head is loaded at the first call. If the policy is trained with LoRA on the
    same base, the adapter runs on the policy's base weights ([`use_base_model`]); otherwise it loads a base of its
    own.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            Folder, hub id, folder of a LoRA adapter trained with its head, or a sequence classifier with one label,
            which is then frozen in place.
        truncation_side (`str`, *optional*, defaults to `"left"`):
            Side from which longer inputs are cut. `"right"` cuts off the EOS, where the score is read in training.
        use_prompt (`bool`, *optional*, defaults to `True`):
            Whether the model was trained on prompt and completion, or on the completion alone.
        quantized_base (`bool`, *optional*, defaults to `False`):
            Whether an adapter may run on the base of a policy that is quantised (`load_in_4bit`), because it was
            trained on one. Without a policy it runs on the full weights all the same.
        name (defaults to `"reward_model"`), tokenizer, batch_size, max_length, device:
            Those of [`FrozenModel`].

    Raises:
        ValueError: If the checkpoint has no head or one of several labels.
    """

    kind: ClassVar[str] = "reward model"

    truncation_side: str = field(default="left", kw_only=True)
    use_prompt: bool = field(default=True, kw_only=True)
    name: str = field(default="reward_model", kw_only=True)
    quantized_base: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        self._on_policy = False
        self._heads = HeadOutputs()
        super().__post_init__()
        labels = self._adapter.labels if self._adapter and self._loads_later else self._model.config.num_labels
        if labels != 1:
            raise ValueError(
                f"`model` must have one logit, got {self._model_name!r} with {labels} labels. Use `Classifier`."
            )
        cut = f"max:{self.max_length}|cut:{self.truncation_side}"
        self._signature = f"reward_model|model:{self._model_name}|{cut}|prompt:{self.use_prompt}"

    def _load(self, name: str) -> Any:
        if self._adapter is None:
            return load_classifier(name, self.kind)
        logger.info(f"The reward {self.__name__!r} loads a base of its own, {self._adapter.base!r}.")
        return self._adapter.load_merged()

    @functools.cached_property
    def _adapter(self) -> RewardAdapter | None:
        is_adapter = self._source is not None and (Path(self._source) / "adapter_config.json").is_file()
        return RewardAdapter(str(self._source), self.quantized_base) if is_adapter else None

    @property
    def _loads_later(self) -> bool:
        """Whether the model is an adapter saved with its head, which may still be put on a policy's base."""
        return self._adapter is not None and self._adapter.labels is not None

    def _ready(self, model: Any) -> Any:
        # As in training: the score is read at the last token that is not padding, found by this id.
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        model.config.get_text_config().pad_token_id = self._tokenizer.pad_token_id
        return super()._ready(model)

    @property
    def _config(self) -> Any:
        return self._adapter.config if self._adapter else self._model.config

    def use_base_model(self, make_backbone: Callable[[], Any]) -> bool:
        """
        Moves an adapter onto the policy's base; returns `False` if the model is no adapter or the base does not fit.

        Scores stay the same up to rounding. The base must be the adapter's, not quantised (but see `quantized_base`),
        and not in a lower precision than the checkpoint.
        """
        if self._adapter is None or self._adapter.labels is None:
            return False
        backbone = make_backbone()
        reason = self._adapter.incompatibility_with(backbone, self.device)
        if reason is not None:
            logger.warning(f"The reward {self.__name__!r} will load a base of its own: {reason}.")
            return False
        self._model = self._placed_model = self._ready(self._adapter.load_on_backbone(backbone))
        self._on_policy = True
        if getattr(backbone, "pass_form", None) == "shared":
            # Sorted by tokens, texts with the same prompt share a batch.
            self._sort_key = itemgetter("input_ids")  # type: ignore[assignment]
        logger.info(f"The reward {self.__name__!r} runs on the policy's base, {self._adapter.base!r}.")
        return True

    def __call__(self, *, completions: Sequence[Any], prompts: Prompts = None, **columns: Any) -> Scores:
        self._heads.clear()
        encoded = self._encoded(completions, prompts)
        rows = [{key: text[key] for key in ("input_ids", "attention_mask")} for text in encoded]
        return self._rewards(rows, cut=sum(bool(text.encodings and text.encodings[0].overflowing) for text in encoded))

    def _encoded(self, completions: Sequence[Any], prompts: Prompts) -> list[Any]:
        # The completions are not turned into texts: a chat goes through the template with all its messages.
        given = self._given_prompts(prompts) if self.use_prompt else [None] * len(completions)
        options = {"truncation": self.max_length is not None, "max_length": self.max_length}
        pairs = zip(given, completions, strict=True)
        return [format_for_reward_model(self._tokenizer, *pair, **options) for pair in pairs]

    def progress(self, *, prefixes: Sequence[Prefixes], prompts: Prompts = None, **columns: Any) -> Progress:
        """
        Returns the head's output at the last complete word before each token, 0 before the first word, from the
        reward's own forward pass. There are no numbers for chats, nor for a model that reads later tokens too.
        """
        texts = [each.text for each in prefixes]
        given = self._given_prompts(prompts) if self.use_prompt else [""] * len(texts)
        found = None
        if all(isinstance(prompt, str) for prompt in given):
            size = self._config.get_text_config().vocab_size
            found = self._heads.progress(prefixes, given, self._encoded(texts, prompts), self._score_ids, size)
        return super().progress(prefixes=prefixes) if found is None else found

    def _score_ids(self, rows: list[tuple[int, ...]]) -> Scores:
        return self._rewards([{"input_ids": list(ids), "attention_mask": [1] * len(ids)} for ids in rows], cut=0)

    def _read(self, batch: dict[str, Tensor]) -> Tensor:
        if self._on_policy:  # the head follows the policy's base to its device
            self._model.to(self._model.device)
        logits: Tensor = self._heads.run(self._model, batch).logits
        return logits.float().squeeze(-1)
