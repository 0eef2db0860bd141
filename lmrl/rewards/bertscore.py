"""BERTScore, equal to that of the bert-score library."""

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from lmrl.libraries import Tensor, torch, transformers
from lmrl.utils import check_at_least, check_in

from .base import Columns, Prompts, Range, Scores
from .models import default_device, from_pretrained, load_complete, longest_input, map_batches
from .references import ReferenceReward

_RANGES: dict[str, Range] = {"f1": (0.0, 1.0), "precision": (-1.0, 1.0), "recall": (-1.0, 1.0)}


class Embedded(NamedTuple):
    """A text: the unit vectors (T, d) of its tokens, and a mask (T,), on the CPU, of those that count in the means."""

    vectors: Tensor
    counted: Tensor


def _padded(texts: list[Embedded]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns padded vectors (B, T, d), and masks (B, T) of the tokens that are no padding and of those that count."""
    pad = functools.partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    vectors = pad([text.vectors for text in texts])
    real = pad([torch.ones_like(text.counted) for text in texts])
    counted = pad([text.counted for text in texts])
    return vectors, real.to(vectors.device), counted.to(vectors.device)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Returns the mean (B,) of values (B, T) over the tokens that count."""
    sums = values.masked_fill(~counted, 0).sum(dim=1)
    return (sums / counted.sum(dim=1)).clamp(-1, 1)  # clamp: rounding goes above 1


def _load_encoder(name: str, layer: int) -> Any:
    """Returns the first `layer` layers of the encoder in a folder or on the hub."""
    config = from_pretrained(transformers.AutoConfig, name, "pretrained encoder")
    layers = config.get_text_config().num_hidden_layers
    if not 1 <= layer <= layers:
        raise ValueError(f"`layer` must be one of the {layers} layers of {name!r}, from 1 on, got {layer}.")
    config.get_text_config().num_hidden_layers = layer
    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would report every weight of the layers left out
    remedy = "Name a checkpoint of an encoder."
    try:
        model = load_complete(transformers.AutoModel, name, "pretrained encoder", remedy, ("pooler",), config=config)
    finally:
        logging.set_verbosity(verbosity)
    return model.get_encoder() if config.is_encoder_decoder else model


@dataclass(eq=False, repr=False)
class BERTScore(ReferenceReward[list[Embedded]]):
    """
    Returns how well contextual embeddings of each completion match those of a reference, best over its references.

    Let `s_ij` be the cosine of the embedding of token i of the completion with that of token j of the reference:

    | `output` | reward | range |
    |---|---|---|
    | `"precision"` | `mean over i of max over j of s_ij` | [-1, 1] |
    | `"recall"` | `mean over j of max over i of s_ij` | [-1, 1] |
    | `"f1"` | their harmonic mean, 0 where one is not above 0 | [0, 1] |

    From "BERTScore: Evaluating Text Generation with BERT" (Zhang et al., 2020, https://arxiv.org/abs/1904.09675), as
    implemented in the bert-score library without idf weights and without rescaling by a baseline: the tokens that open
    and close a text (CLS, SEP) may be matched, but are left out of the means, and a text with no others has 0. Scores
    of real models lie close together near the top: compare differences. The model is loaded again when the reward is
    unpickled.

    Args:
        model (`str`):
            Folder or hub id of an encoder.
        layer (`int`):
            Layer whose output is the embedding, from 1 on; those above are not loaded. The library's choices:
            `roberta-large` 17, `roberta-base` 10, `bert-base-uncased` 9, `distilbert-base-uncased` 5,
            `microsoft/deberta-v3-base` 9.
        output (`str`, *optional*, defaults to `"f1"`):
            One of the table.
        batch_size (`int`, *optional*, defaults to `64`), device (`str`, *optional*):
            Those of [`FrozenModel`]. The references of a row are embedded in passes of their own.
        name (defaults to `"bertscore"`), column, cache_size (defaults to 128):
            Those of [`ReferenceReward`]; the embedded references are kept on the model's device.

    Raises:
        ValueError: If the model cannot be loaded or lacks weights, or its tokenizer a padding token.
    """

    model: str
    layer: int
    output: str = "f1"
    batch_size: int = field(default=64, kw_only=True)
    device: str | None = field(default=None, kw_only=True)
    name: str = field(default="bertscore", kw_only=True)
    cache_size: int = field(default=128, kw_only=True)  # kept on the model's device

    def __post_init__(self) -> None:
        check_in(_RANGES, output=self.output)
        check_at_least(1, batch_size=self.batch_size)
        super().__post_init__()
        self.range = _RANGES[self.output]
        # As in the library: after a space, a byte-level tokenizer (RoBERTa's) treats the first word like the others.
        self._tokenizer = from_pretrained(
            transformers.AutoTokenizer, self.model, "pretrained encoder", add_prefix_space=True
        )
        self.max_length = longest_input(self._tokenizer, self._encoder.config, self._encoder)
        if self._tokenizer.pad_token_id is None:
            raise ValueError(f"`model` must have a padding token, got {self.model!r}. Name an encoder such as BERT.")
        output = f"output:{self.output}|idf:no|baseline:no|max:{self.max_length}"
        self._signature = f"bertscore|nrefs:var|model:{self.model}|layer:{self.layer}|{output}"

    @functools.cached_property
    def _encoder(self) -> Any:
        return _load_encoder(self.model, self.layer).requires_grad_(False).eval()

    def scores(self, completions: list[str], prompts: Prompts, columns: Columns) -> Scores:
        """Returns the score of each text against its row of references."""
        references = self._prepare_rows(columns[self.column])
        texts = self._embed(completions)
        pairs = [(text, other) for text, of_row in zip(texts, references, strict=True) for other in of_row]
        rest = iter(map_batches(self._match, pairs, lambda pair: 0, self.batch_size))
        return [max(islice(rest, len(of_row))) for of_row in references]

    def prepare(self, references: tuple[str, ...]) -> list[Embedded]:
        """Returns the embedded references of a row."""
        return self._embed(references)

    def _match(self, pairs: list[tuple[Embedded, Embedded]]) -> list[float]:
        """Returns the score of each pair of a text and a reference, all computed at once."""
        scores = [0.0] * len(pairs)
        rows = [row for row, pair in enumerate(pairs) if all(text.counted.any() for text in pair)]
        if not rows:
            return scores
        texts, text_real, text_counted = _padded([pairs[row][0] for row in rows])
        references, reference_real, reference_counted = _padded([pairs[row][1] for row in rows])
        cosines = texts @ references.mT  # (rows, T, R)
        precisions = _mean(cosines.masked_fill(~reference_real[:, None], -1).amax(dim=2), text_counted)
        recalls = _mean(cosines.masked_fill(~text_real[:, :, None], -1).amax(dim=1), reference_counted)
        means = torch.stack([precisions, recalls], dim=1)
        for row, (precision, recall) in zip(rows, means.tolist(), strict=True):
            harmonic = 2 * precision * recall / (precision + recall) if min(precision, recall) > 0 else 0.0
            scores[row] = {"precision": precision, "recall": recall, "f1": harmonic}[self.output]
        return scores

    def _embed(self, texts: Sequence[str]) -> list[Embedded]:
        return map_batches(self._embed_batch, [text.strip() for text in texts], len, self.batch_size)

    def _embed_batch(self, texts: list[str]) -> list[Embedded]:
        batch = self._tokenizer(
            texts,
            padding=True,
            padding_side="right",
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_tensors="pt",
        )
        if cut := sum(bool(encoding.overflowing) for encoding in batch.encodings or ()):
            warnings.warn(f"The reward {self.__name__!r} cut {cut} texts to {self.max_length} tokens.", stacklevel=5)
        ends = [index for index in (self._tokenizer.cls_token_id, self._tokenizer.sep_token_id) if index is not None]
        counted = ~torch.isin(batch["input_ids"], torch.tensor(ends))
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        with torch.no_grad():
            encoder = self._encoder.to(self.device or default_device())  # by now each process has chosen its GPU
            vectors = encoder(**batch.to(encoder.device)).last_hidden_state.float()
        vectors = vectors / vectors.norm(dim=-1, keepdim=True)
        return [Embedded(vectors[row, :length], counted[row, :length]) for row, length in enumerate(lengths)]
