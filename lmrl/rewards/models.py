"""Base class of the rewards that are frozen models, and functions that load models and make batches."""

import functools
import multiprocessing
import os
import warnings
from abc import abstractmethod
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from lmrl.libraries import Tensor, torch, transformers
from lmrl.utils import check_at_least, check_in, loading_problem

from .algebra import Reward
from .base import UNBOUNDED, Prompts, Scores

Encoded = Mapping[str, list[int]]
"""A tokenised text: `"input_ids"`, and other numbers of each token, by name."""

Item = TypeVar("Item")
Result = TypeVar("Result")
_NO_LIMIT = 10**6  # a tokenizer without a limit has 10**30


@dataclass(eq=False, repr=False)
class FrozenModel(Reward):
    """
    Base of the rewards computed by a frozen model, which is in eval mode and has its own tokenizer.

    The model is moved to its device at the first call, when each process of a distributed run has chosen its GPU. A
    model given by name is not pickled, but loaded again.

    Args:
        model (`str`, `Path` or [`~transformers.PreTrainedModel`]):
            Folder, hub id, or a model, which is then frozen in place.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The model's tokenizer. Defaults to the one saved with the model.
        batch_size (`int`, *optional*, defaults to `32`):
            Texts in one forward pass, at least 1.
        max_length (`int`, *optional*):
            Longest input in tokens, at least 1. Defaults to the most that the tokenizer and the model allow. Longer
            inputs are cut, with a warning that counts them.
        device (`str`, *optional*):
            Device of the model. Defaults to the GPU current at the first call if there is one, else to the CPU.
        use_prompt (`bool`, *optional*, defaults to `False`):
            Whether the model reads the prompt before the completion.
        name (`str`):
            Name under which trainers log it.

    Raises:
        ValueError: If the checkpoint lacks weights or a tokenizer.
    """

    kind: ClassVar[str] = "model"  # in messages
    truncation_side = "left"  # side from which longer inputs are cut
    _sort_key = staticmethod(lambda text: len(text["input_ids"]))  # batches are made in this order

    model: Any
    tokenizer: Any = field(default=None, kw_only=True)
    batch_size: int = field(default=32, kw_only=True)
    max_length: int | None = field(default=None, kw_only=True)
    device: str | None = field(default=None, kw_only=True)
    use_prompt: bool = field(default=False, kw_only=True)
    name: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        check_in(("right", "left"), truncation_side=self.truncation_side)
        check_at_least(1, batch_size=self.batch_size, max_length=self.max_length)
        super().__init__(self.name, range=UNBOUNDED)
        self._source = str(self.model) if isinstance(self.model, (str, Path)) else None
        self._tokenizer = self._saved_tokenizer() if self.tokenizer is None else self.tokenizer
        self._tokenizer.truncation_side = self.truncation_side
        model = None if self._loads_later else self._model
        if self.max_length is None:
            self.max_length = longest_input(self._tokenizer, self._config, model)

    @abstractmethod
    def _load(self, name: str) -> Any:
        """Returns the model in a folder or on the hub; raises an error if its checkpoint lacks weights."""

    @abstractmethod
    def _read(self, batch: dict[str, Tensor]) -> Tensor:
        """Returns the rewards (B,) of a batch, padded on the right, on the device of the model."""

    def _ready(self, model: Any) -> Any:
        """Freezes a model that was loaded or given, and returns it."""
        return model.requires_grad_(False).eval()

    @functools.cached_property
    def _model(self) -> Any:
        return self._ready(self._load(self._source) if self._source else self.model)

    @functools.cached_property
    def _placed_model(self) -> Any:
        """The model on its device, from the first call on: by then each process of a run has chosen its GPU."""
        return self._model.to(self.device or default_device())

    @property
    def _loads_later(self) -> bool:
        """Whether the model is loaded at the first call."""
        return False

    def _saved_tokenizer(self) -> Any:
        name = self._source or self.model.config._name_or_path
        if not name:
            raise ValueError(f"`tokenizer` must be given for this {self.kind}, got None: the model has no folder.")
        return from_pretrained(transformers.AutoTokenizer, name, self.kind)

    @property
    def _config(self) -> Any:
        return self._model.config

    @property
    def _model_name(self) -> str:
        return str(self._source or self._model.config._name_or_path or type(self._model).__name__)

    def _given_prompts(self, prompts: Prompts) -> Sequence[Any]:
        if prompts is None:
            raise ValueError(f"The reward {self.__name__!r} needs `prompts` (`use_prompt=True`), got None.")
        return prompts

    def _rewards(self, texts: Sequence[Encoded], cut: int) -> Scores:
        """Returns the reward of each encoded text; warns if `cut`, the number of truncated texts, is not 0."""
        rewards = map_batches(self._score_batch, texts, self._sort_key, self.batch_size)
        if cut:
            warnings.warn(
                f"The reward {self.__name__!r} cut {cut} of {len(texts)} texts to {self.max_length} tokens "
                f"(truncation_side={self.truncation_side!r}).",
                stacklevel=4,
            )
        return rewards

    def _score_batch(self, texts: Sequence[Encoded]) -> Scores:
        batch = {}
        for key in texts[0]:
            tensors = [torch.tensor(text[key], dtype=torch.long) for text in texts]
            filler = self._tokenizer.pad_token_id or 0 if key == "input_ids" else 0
            padded = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=filler)
            batch[key] = padded.to(self._placed_model.device)
        with torch.no_grad():
            return cast(Scores, self._read(batch).tolist())


def from_pretrained(auto_class: Any, name: str, kind: str, **options: Any) -> Any:
    """Returns `auto_class.from_pretrained(name)`; turns a failure into a `ValueError` that names the kind of model."""
    try:
        return auto_class.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`model` must be a {kind} with its tokenizer, got {name!r} ({loading_problem(name, error)}). Give a hub "
            "id, or a folder of `save_pretrained`."
        ) from error


def load_complete(
    auto_class: Any, name: str, kind: str, remedy: str, ignored: Container[str] = (), **options: Any
) -> Any:
    """
    Returns [`from_pretrained`]; raises a `ValueError` if the checkpoint lacks weights, which would be random, and the
    reward noise. Weights of the modules in `ignored` may be missing.
    """
    model, info = from_pretrained(auto_class, name, kind, output_loading_info=True, **options)
    if missing := sorted(key for key in info["missing_keys"] if not any(part in ignored for part in key.split("."))):
        raise ValueError(f"`model` must have all weights, got {name!r} without {missing}. {remedy}")
    return model


def longest_input(tokenizer: Any, config: Any, model: Any) -> int | None:
    """
    Returns the most tokens that a tokenizer and a model allow, or `None` where neither has a limit.

    `model` is `None` if it is loaded later. Those like RoBERTa lose positions, as they count from `padding_idx + 1`.
    """
    limits = [tokenizer.model_max_length, getattr(config.get_text_config(), "max_position_embeddings", None)]
    for name, module in model.named_modules() if model is not None else ():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return min((limit for limit in limits if limit and limit < _NO_LIMIT), default=None)


def default_device() -> str:
    """Returns the GPU of this process if there is one, else the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    if multiprocessing.parent_process() is None:
        return "cuda"
    return gpu_of_worker(os.environ.get("LOCAL_RANK"), torch.cuda.device_count())


def gpu_of_worker(local_rank: str | None, devices: int) -> str:
    """Returns the GPU of the process that started a worker of [`InWorkers`], which has chosen none of its own."""
    # If a rank has no device of its number, the launcher shows each process its own GPU alone.
    return f"cuda:{local_rank}" if local_rank is not None and int(local_rank) < devices else "cuda"


def map_batches(
    fn: Callable[[list[Item]], Iterable[Result]], items: Sequence[Item], key: Callable[[Item], Any], batch_size: int
) -> list[Result]:
    """Returns the result of `fn` for each item; batches hold neighbours by `key`: with lengths, padding is short."""
    order = sorted(range(len(items)), key=lambda row: key(items[row]))
    results: dict[int, Result] = {}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        results.update(zip(rows, fn([items[row] for row in rows]), strict=True))
    return [results[row] for row in range(len(items))]


def load_classifier(name: str, kind: str, trained: Container[str] = (), **options: Any) -> Any:
    """Returns a model with a classification head; weights of the `trained` modules, loaded later, may be missing."""
    remedy = f"Name a checkpoint that was trained as a {kind}, not the model it starts from."
    auto_class = transformers.AutoModelForSequenceClassification
    return load_complete(auto_class, name, kind, remedy, ignored=trained, **options)
