"""What the rewards that are themselves models share: loading, placing on a device, batches, cutting."""

import warnings
from abc import abstractmethod
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .algebra import Reward
from .base import completion_text

if TYPE_CHECKING:
    import torch

Encoded = Mapping[str, list[int]]
"""A text as a model reads it: `"input_ids"`, and what else there is of each token, by name."""

_NO_LIMIT = 10**6  # tokenizers without a limit say 10**30


class FrozenModel(Reward):
    """
    Base of the rewards that a frozen model gives: it is in eval mode, and has its own tokenizer.

    The model is moved to its device at the first call, when each process of a distributed run has chosen its GPU.
    Given by name it is not pickled, but loaded again.

    Args:
        model (`str`, `Path` or [`~transformers.PreTrainedModel`]):
            Folder, hub id, or a model, which is then frozen in place.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`] or `None`):
            The model's tokenizer. `None` is that saved with the model.
        batch_size (`int`):
            Texts in one forward pass.
        max_length (`int` or `None`):
            Longest input in tokens. `None` is the most that the tokenizer and the model allow.
        truncation_side (`str`):
            The end of longer inputs that is cut, `"right"` or `"left"`.
        device (`str` or `None`):
            Device of the model. `None` is the GPU current at the first call if there is one, else the CPU.
        use_prompt (`bool`):
            Whether the model reads the prompt before the completion.
        name (`str`):
            Name under which trainers log it.
        range (`tuple[float, float]`):
            Lowest and highest reward it can give.

    Raises:
        ValueError: if an option is out of its range, or the checkpoint lacks weights or a tokenizer.
    """

    kind = "model"
    """What the model is, in messages."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        batch_size: int,
        max_length: int | None,
        truncation_side: str,
        device: str | None,
        use_prompt: bool,
        name: str,
        range: tuple[float, float],
    ):
        if truncation_side not in ("right", "left"):
            raise ValueError(f"`truncation_side` must be 'right' or 'left', got {truncation_side!r}.")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        super().__init__(name, range=range)
        self.batch_size = batch_size
        self.truncation_side = truncation_side
        self.device = device
        self.use_prompt = use_prompt
        self._source = str(model) if isinstance(model, (str, Path)) else None
        self._prepare(self._source or model, tokenizer)
        self.max_length = self._limit() if max_length is None else max_length

    @abstractmethod
    def _load(self, name: str) -> Any:
        """
        Returns the model in a folder or on the hub; refuses to make up what its checkpoint lacks. `None` is one that
        is loaded at the first call.
        """

    @abstractmethod
    def _read(self, batch: "dict[str, torch.Tensor]") -> "torch.Tensor":
        """Returns the rewards (B,) of a batch, padded on the right, on the device of the model."""

    def _prepare(self, model: Any, tokenizer: Any) -> None:
        self._tokenizer = self._load_tokenizer(model) if tokenizer is None else tokenizer
        self._tokenizer.truncation_side = self.truncation_side
        self._model: Any = self._load(model) if isinstance(model, str) else model
        if self._model is not None:
            self._model.requires_grad_(False).eval()
        self._placed = False

    def _load_tokenizer(self, model: Any) -> Any:
        from transformers import AutoTokenizer

        name = model if isinstance(model, str) else model.config._name_or_path
        if not name:
            raise ValueError(f"This {self.kind} does not say where it comes from: pass `tokenizer=`, its own.")
        try:
            return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(".")
            raise ValueError(
                f"No {self.kind} with its tokenizer could be loaded from {name!r} ({reason}). Give a hub id, or a "
                "folder written by `save_pretrained`."
            ) from error

    def _limit(self) -> int | None:
        limits = [self._tokenizer.model_max_length, getattr(self._config, "max_position_embeddings", None)]
        return min((limit for limit in limits if limit and limit < _NO_LIMIT), default=None)

    @property
    def _config(self) -> Any:
        return self._model.config

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_model": None} if self._source else dict(vars(self))

    @property
    def _model_name(self) -> str:
        return str(self._source or self._model.config._name_or_path or type(self._model).__name__)

    def _place(self) -> None:
        import torch

        if self._model is None:
            self._prepare(self._source, self._tokenizer)
        if not self._placed:
            self._model.to(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self._placed = True

    def _given_prompts(self, prompts: Sequence[Any] | None) -> Sequence[Any]:
        if prompts is None:
            raise ValueError(f"The reward {self.__name__!r} reads prompts (`use_prompt=True`): pass `prompts`.")
        return prompts

    def _rewards(self, texts: Sequence[Encoded], cut: int) -> list[float | None]:
        """Returns the reward of each encoded text, and warns of the `cut` ones among them."""
        import torch

        self._place()
        rewards: list[float | None] = [None] * len(texts)
        # Neighbours in length share a batch, so that little of it is padding.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]["input_ids"]))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = _padded([texts[row] for row in rows], self._tokenizer.pad_token_id or 0)
            with torch.no_grad():
                values = self._read({key: ids.to(self._model.device) for key, ids in batch.items()})
            for row, value in zip(rows, values.tolist(), strict=True):
                rewards[row] = value
        if cut:
            warnings.warn(
                f"The reward {self.__name__!r} cut {cut} of {len(texts)} texts to {self.max_length} tokens "
                f"(truncation_side={self.truncation_side!r}).",
                stacklevel=4,
            )
        return rewards


def load_classifier(name: str, what: str, trained: Container[str] = (), **options: Any) -> Any:
    """
    Returns the model with a classification head in a folder or on the hub.

    Args:
        name (`str`):
            Folder or hub id.
        what (`str`):
            What it must have been trained as, for the message.
        trained (container of `str`, *optional*, defaults to `()`):
            Modules whose weights come from elsewhere.
        **options:
            Passed on to `from_pretrained`.

    Raises:
        ValueError: if the checkpoint lacks weights: a head would be random.
    """
    from transformers import AutoModelForSequenceClassification

    model, info = AutoModelForSequenceClassification.from_pretrained(
        name, output_loading_info=True, trust_remote_code=False, **options
    )
    if missing := sorted(key for key in info["missing_keys"] if not any(part in trained for part in key.split("."))):
        raise ValueError(
            f"{name!r} has no weights for {missing}: they would be random, and the reward noise. Name a checkpoint "
            f"that was trained as a {what}, not the language model it starts from."
        )
    return model


def prompt_text(prompt: Any) -> str:
    """Returns the text of a prompt; of a chat, the contents of its messages joined by newlines."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(completion_text([{**message, "role": "assistant"}]) for message in prompt)


def _padded(texts: list[Encoded], pad_id: int) -> "dict[str, torch.Tensor]":
    import torch

    return {
        key: torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(text[key], dtype=torch.long) for text in texts],
            batch_first=True,
            padding_value=pad_id if key == "input_ids" else 0,
        )
        for key in texts[0]
    }
