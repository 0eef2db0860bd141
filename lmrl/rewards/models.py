"""Rewards that are themselves models."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .base import Reward, completion_text

if TYPE_CHECKING:
    import torch


_NO_LIMIT = 10**6  # tokenizers without a limit say 10**30

_OUTPUTS = {
    "probability": (0.0, 1.0),
    "logit": (-math.inf, math.inf),
    "log_odds": (-math.inf, math.inf),
    "margin": (-math.inf, math.inf),
}


def _load_classifier(name: str) -> Any:
    """Returns the sequence classifier in a folder or on the hub; refuses to make up what its checkpoint lacks."""
    from transformers import AutoModelForSequenceClassification

    model, info = AutoModelForSequenceClassification.from_pretrained(
        name, output_loading_info=True, trust_remote_code=False
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"{name!r} has no weights for {missing}: they would be random, and the reward noise. Name a checkpoint "
            "that was trained as a sequence classifier, not the language model it starts from."
        )
    return model


def _tokenizer_name(model: Any) -> str:
    name = model if isinstance(model, str) else model.config._name_or_path
    if not name:
        raise ValueError("This classifier does not say where it comes from: pass `tokenizer=`, its own.")
    return str(name)


def _label_index(label: int | str, config: Any) -> int:
    labels = {int(index): str(name) for index, name in config.id2label.items()}
    if isinstance(label, str) and list(labels.values()).count(label) == 1:
        return next(index for index, name in labels.items() if name == label)
    if isinstance(label, int) and not isinstance(label, bool) and label in labels:
        return label
    raise ValueError(f"`label` must be the index or the name of one of the labels {labels}, got {label!r}.")


def _read_logits(logits: "torch.Tensor", label: int, output: str, independent: bool) -> "torch.Tensor":
    """Returns the reward (B,) that `output` means, from the logits (B, labels) in float32."""
    chosen = logits[:, label]
    if output == "logit":
        return chosen
    if independent:  # one sigmoid per label, whose log-odds are the logit itself
        return chosen.sigmoid() if output == "probability" else chosen
    if output == "probability":
        return logits.softmax(dim=-1)[:, label]
    others = logits[:, [index for index in range(logits.shape[1]) if index != label]]
    return chosen - (others.logsumexp(dim=-1) if output == "log_odds" else others.amax(dim=-1))


class Classifier(Reward):
    """
    Returns what a sequence classifier thinks of each completion: how much it is of the class `label`.

    With logits z and l the label:

    | `output` | reward | range |
    |---|---|---|
    | `"probability"` | `softmax(z)_l` | [0, 1] |
    | `"logit"` | `z_l` | all |
    | `"log_odds"` | `log p / (1 - p) = z_l - logsumexp over the others` | all |
    | `"margin"` | `z_l - max of the others` | all |

    A model with a single logit, or of `problem_type="multi_label_classification"`, has a sigmoid for each label:
    probability `sigmoid(z_l)`, log-odds `z_l`, no margin. The text goes through the classifier's own tokenizer with
    its own special tokens, whatever the policy's are. The model is frozen and in eval mode. Given by name it is not
    pickled, but loaded again.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            Folder, hub id, or a sequence classifier, which is then frozen in place.
        label (`int` or `str`):
            Index or name of the class.
        output (`str`, *optional*, defaults to `"probability"`):
            One of the table.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The classifier's tokenizer. Defaults to that saved with the model.
        batch_size (`int`, *optional*, defaults to `32`):
            Texts in one forward pass.
        max_length (`int`, *optional*):
            Longest input in tokens. Defaults to the most that the tokenizer and the model allow. Longer ones are cut,
            with a warning that says how many.
        truncation_side (`str`, *optional*, defaults to `"right"`):
            The end that is cut, `"right"` or `"left"`.
        device (`str`, *optional*):
            Device of the model. Defaults to the GPU current at the first call if there is one, else to the CPU.
        use_prompt (`bool`, *optional*, defaults to `False`):
            Whether the model reads prompt and completion, as a pair of texts.
        name (`str`, *optional*, defaults to `"classifier"`):
            Name under which trainers log it.

    Raises:
        ValueError: if the checkpoint lacks weights (a head would be random), for an unknown label, output or side, or
            if the tokenizer has no padding token.
    """

    def __init__(
        self,
        model: Any,
        label: int | str,
        output: str = "probability",
        tokenizer: Any = None,
        batch_size: int = 32,
        max_length: int | None = None,
        truncation_side: str = "right",
        device: str | None = None,
        use_prompt: bool = False,
        name: str = "classifier",
    ):
        if output not in _OUTPUTS:
            raise ValueError(f"`output` must be one of {list(_OUTPUTS)}, got {output!r}.")
        if truncation_side not in ("right", "left"):
            raise ValueError(f"`truncation_side` must be 'right' or 'left', got {truncation_side!r}.")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        super().__init__(name, range=_OUTPUTS[output])
        self.output = output
        self.batch_size = batch_size
        self.truncation_side = truncation_side
        self.device = device
        self.use_prompt = use_prompt
        self._source = model if isinstance(model, str) else None
        self._prepare(model, tokenizer)
        config = self._model.config
        self.label = _label_index(label, config)
        self.label_name = str(config.id2label[self.label])
        self.max_length = self._limit() if max_length is None else max_length
        self._independent = config.num_labels == 1 or config.problem_type == "multi_label_classification"
        if output == "margin" and self._independent:
            raise ValueError("`output='margin'` is for classes that exclude each other: take 'logit' with this model.")

    def _prepare(self, model: Any, tokenizer: Any) -> None:
        from transformers import AutoTokenizer

        if tokenizer is None:
            name = _tokenizer_name(model)
            try:
                tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            except (OSError, ValueError) as error:
                reason = str(error).strip().split("\n")[0].rstrip(".")
                raise ValueError(
                    f"No classifier with its tokenizer could be loaded from {name!r} ({reason}). Give a hub id, or a "
                    "folder written by `save_pretrained`."
                ) from error
        if tokenizer.pad_token_id is None:
            raise ValueError(
                "The classifier's tokenizer has no padding token: set its `pad_token`, pass `tokenizer=`."
            )
        tokenizer.truncation_side = self.truncation_side
        self._tokenizer = tokenizer
        self._model: Any = _load_classifier(model) if isinstance(model, str) else model
        self._model.requires_grad_(False).eval()
        # A decoder takes its score at the last token that is not padding, and finds that by this id.
        self._model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        self._placed = False

    def _limit(self) -> int | None:
        limits = [self._tokenizer.model_max_length, getattr(self._model.config, "max_position_embeddings", None)]
        return min((limit for limit in limits if limit and limit < _NO_LIMIT), default=None)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_model": None} if self._source else dict(vars(self))

    @property
    def signature(self) -> str:
        """The model, the label, how it is read, and where texts are cut."""
        model = self._source or self._model.config._name_or_path or type(self._model).__name__
        label = f"{self.label}={self.label_name}"
        cut = f"max:{self.max_length}|cut:{self.truncation_side}"
        return f"classifier|model:{model}|label:{label}|output:{self.output}|{cut}|prompt:{self.use_prompt}"

    def _place(self) -> None:
        """Moves the model when it is first used: by then each process of a distributed run has chosen its GPU."""
        import torch

        if self._model is None:
            self._prepare(self._source, self._tokenizer)
        if not self._placed:
            device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
            self._model.to(device)
            self._placed = True

    def scores(
        self, completions: list[str], prompts: Sequence[Any] | None, columns: Mapping[str, Sequence[Any]]
    ) -> list[float | None]:
        """Returns the reward of each text."""
        first, second = completions, None
        if self.use_prompt:
            if prompts is None:
                raise ValueError(f"The reward {self.__name__!r} reads prompts (`use_prompt=True`): pass `prompts`.")
            first, second = [_prompt_text(prompt) for prompt in prompts], completions
        self._place()
        # Neighbours in length share a batch, so that little of it is padding.
        order = sorted(range(len(first)), key=lambda row: len(first[row]) + (len(second[row]) if second else 0))
        rewards: list[float | None] = [None] * len(first)
        cut = 0
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            pair = [second[row] for row in rows] if second else None
            values, shortened = self._score_batch([first[row] for row in rows], pair)
            cut += shortened
            for row, value in zip(rows, values, strict=True):
                rewards[row] = value
        if cut:
            warnings.warn(
                f"The reward {self.__name__!r} cut {cut} of {len(first)} texts to {self.max_length} tokens "
                f"(truncation_side={self.truncation_side!r}).",
                stacklevel=3,
            )
        return rewards

    def _score_batch(self, first: list[str], second: list[str] | None) -> tuple[list[float], int]:
        import torch

        batch = self._tokenizer(
            first,
            second,
            padding=True,
            padding_side="right",
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_tensors="pt",
        )
        cut = sum(bool(encoding.overflowing) for encoding in batch.encodings or ())
        with torch.no_grad():
            logits = self._model(**batch.to(self._model.device)).logits.float()
        return _read_logits(logits, self.label, self.output, self._independent).tolist(), cut


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(completion_text([{**message, "role": "assistant"}]) for message in prompt)
