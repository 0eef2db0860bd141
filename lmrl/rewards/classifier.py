"""A text classifier as a reward."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .models import FrozenModel, load_classifier, prompt_text

if TYPE_CHECKING:
    import torch

_OUTPUTS = {
    "probability": (0.0, 1.0),
    "logit": (-math.inf, math.inf),
    "log_odds": (-math.inf, math.inf),
    "margin": (-math.inf, math.inf),
}


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


class Classifier(FrozenModel):
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

    kind = "classifier"

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
        super().__init__(
            model, tokenizer, batch_size, max_length, truncation_side, device, use_prompt, name, _OUTPUTS[output]
        )
        self.output = output
        config = self._model.config
        self.label = _label_index(label, config)
        self.label_name = str(config.id2label[self.label])
        self._independent = config.num_labels == 1 or config.problem_type == "multi_label_classification"
        if output == "margin" and self._independent:
            raise ValueError("`output='margin'` is for classes that exclude each other: take 'logit' with this model.")

    def _load(self, name: str) -> Any:
        return load_classifier(name, "sequence classifier")

    def _prepare(self, model: Any, tokenizer: Any) -> None:
        super()._prepare(model, tokenizer)
        if self._tokenizer.pad_token_id is None:
            raise ValueError(
                "The classifier's tokenizer has no padding token: set its `pad_token`, pass `tokenizer=`."
            )
        # A decoder takes its score at the last token that is not padding, and finds that by this id.
        self._model.config.get_text_config().pad_token_id = self._tokenizer.pad_token_id

    @property
    def signature(self) -> str:
        """The model, the label, how it is read, and where texts are cut."""
        label = f"{self.label}={self.label_name}"
        cut = f"max:{self.max_length}|cut:{self.truncation_side}"
        return f"classifier|model:{self._model_name}|label:{label}|output:{self.output}|{cut}|prompt:{self.use_prompt}"

    def scores(
        self, completions: list[str], prompts: Sequence[Any] | None, columns: Mapping[str, Sequence[Any]]
    ) -> list[float | None]:
        """Returns the reward of each text."""
        if not completions:
            return []
        texts: list[list[str]] = [completions]
        if self.use_prompt:
            texts = [[prompt_text(prompt) for prompt in self._given_prompts(prompts)], completions]
        encoded = self._tokenizer(*texts, truncation=self.max_length is not None, max_length=self.max_length)
        rows = [{key: values[row] for key, values in encoded.items()} for row in range(len(completions))]
        return self._rewards(rows, cut=sum(bool(encoding.overflowing) for encoding in encoded.encodings or ()))

    def _read(self, batch: "dict[str, torch.Tensor]") -> "torch.Tensor":
        return _read_logits(self._model(**batch).logits.float(), self.label, self.output, self._independent)
