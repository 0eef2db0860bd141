"""A text classifier as a reward."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from lmrl.libraries import Tensor
from lmrl.utils import check_in

from .base import UNBOUNDED, Columns, Prompts, Scores, prompt_text
from .models import FrozenModel, load_classifier

_OUTPUTS = ("probability", "logit", "log_odds", "margin")


def _label_index(label: int | str, config: Any) -> int:
    labels = {int(index): str(name) for index, name in config.id2label.items()}
    if isinstance(label, str) and list(labels.values()).count(label) == 1:
        return next(index for index, name in labels.items() if name == label)
    if isinstance(label, int) and not isinstance(label, bool) and label in labels:
        return label
    raise ValueError(f"`label` must be the index or the name of one of the labels {labels}, got {label!r}.")


@dataclass(eq=False, repr=False)
class Classifier(FrozenModel):
    """
    Returns the output of a sequence classifier for each completion: how much it is of the class `label`.

    With logits z and l the label:

    | `output` | reward | range |
    |---|---|---|
    | `"probability"` | `softmax(z)_l` | [0, 1] |
    | `"logit"` | `z_l` | all |
    | `"log_odds"` | `log p / (1 - p) = z_l - logsumexp over the others` | all |
    | `"margin"` | `z_l - max of the others` | all |

    A model with a single logit, or of `problem_type="multi_label_classification"`, has a sigmoid for each label:
    probability `sigmoid(z_l)`, log-odds `z_l`, no margin. The text is tokenised by the classifier's own tokenizer with
    its special tokens, independent of the policy's.

    Args:
        label (`int` or `str`):
            Index or name of the class.
        output (`str`, *optional*, defaults to `"probability"`):
            One of the table.
        truncation_side (`str`, *optional*, defaults to `"right"`):
            Side from which longer inputs are cut, `"right"` or `"left"`.
        use_prompt (`bool`, *optional*, defaults to `False`):
            Whether the model reads prompt and completion, as a pair of texts.
        model (a sequence classifier), name (defaults to `"classifier"`), tokenizer, batch_size, max_length, device:
            Those of [`FrozenModel`].

    Raises:
        ValueError: If the checkpoint lacks weights (a head would be random) or the tokenizer a padding token.
    """

    kind: ClassVar[str] = "sequence classifier"

    label: int | str
    output: str = "probability"
    truncation_side: str = field(default="right", kw_only=True)
    name: str = field(default="classifier", kw_only=True)

    def __post_init__(self) -> None:
        check_in(_OUTPUTS, output=self.output)
        super().__post_init__()
        self.range = (0.0, 1.0) if self.output == "probability" else UNBOUNDED
        config = self._model.config
        self.label = _label_index(self.label, config)
        self.label_name = str(config.id2label[self.label])
        self._independent = config.num_labels == 1 or config.problem_type == "multi_label_classification"
        if self.output == "margin" and self._independent:
            raise ValueError("`output` must be 'logit' for labels that do not exclude each other, got 'margin'.")
        self._signature = (
            f"classifier|model:{self._model_name}|label:{self.label}={self.label_name}|output:{self.output}"
            f"|max:{self.max_length}|cut:{self.truncation_side}|prompt:{self.use_prompt}"
        )

    def _load(self, name: str) -> Any:
        return load_classifier(name, self.kind)

    def _ready(self, model: Any) -> Any:
        if self._tokenizer.pad_token_id is None:
            raise ValueError("`tokenizer` must have a padding token, got one without. Set its `pad_token`.")
        # A decoder has its score at the last token that is not padding, found by this id.
        model.config.get_text_config().pad_token_id = self._tokenizer.pad_token_id
        return super()._ready(model)

    def scores(self, completions: list[str], prompts: Prompts, columns: Columns) -> Scores:
        """Returns the reward of each text."""
        if not completions:
            return []
        texts: list[list[str]] = [completions]
        if self.use_prompt:
            texts = [[prompt_text(prompt) for prompt in self._given_prompts(prompts)], completions]
        encoded = self._tokenizer(*texts, truncation=self.max_length is not None, max_length=self.max_length)
        # Without special tokens, as of most decoders, an empty text has no token: the model reads one of padding.
        empty = {"input_ids": [self._tokenizer.pad_token_id], "attention_mask": [1], "token_type_ids": [0]}
        rows = [{key: encoded[key][row] or empty[key] for key in encoded} for row in range(len(completions))]
        return self._rewards(rows, cut=sum(bool(encoding.overflowing) for encoding in encoded.encodings or ()))

    def _read(self, batch: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self._model(**batch).logits.float()  # (B, labels)
        label = int(self.label)
        own = logits[:, label]
        if self.output == "probability":
            return own.sigmoid() if self._independent else logits.softmax(dim=-1)[:, label]
        if self.output == "logit" or self._independent:  # the log-odds of a sigmoid are its logit
            return own
        others = logits[:, [index for index in range(logits.shape[1]) if index != label]]
        return own - (others.logsumexp(dim=-1) if self.output == "log_odds" else others.amax(dim=-1))
