"""BERTScore, equal to that of the bert-score library."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .references import ReferenceReward

if TYPE_CHECKING:
    import torch

_RANGES = {"f1": (0.0, 1.0), "precision": (-1.0, 1.0), "recall": (-1.0, 1.0)}
_NO_LIMIT = 10**6  # tokenizers without a limit say 10**30


class Embedded(NamedTuple):
    """A text: the unit vectors (T, d) of its tokens, and which of them (T,) count in a mean."""

    vectors: "torch.Tensor"
    counted: "torch.Tensor"


def _load_encoder(name: str, layer: int) -> Any:
    """Returns the first `layer` layers of the encoder in a folder or on the hub."""
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    layers = config.num_hidden_layers
    if not 1 <= layer <= layers:
        raise ValueError(f"`layer` must be one of the {layers} layers of {name!r}, from 1 on, got {layer}.")
    config.num_hidden_layers = layer
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would report every weight of the layers left out
    try:
        model, info = AutoModel.from_pretrained(name, config=config, output_loading_info=True, trust_remote_code=False)
    finally:
        logging.set_verbosity(verbosity)
    if missing := sorted(key for key in info["missing_keys"] if "pooler" not in key):  # which is not read
        raise ValueError(f"{name!r} has no weights for {missing}: they would be random, and the reward noise.")
    return model.get_encoder() if config.is_encoder_decoder else model


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
    of real models crowd near the top: differences, not heights, tell texts apart. The model is loaded again when the
    reward is unpickled.

    Args:
        model (`str`):
            Folder or hub id of an encoder.
        layer (`int`):
            Layer whose output is the embedding, from 1 on; those above are not loaded. The library's choices:
            `roberta-large` 17, `roberta-base` 10, `bert-base-uncased` 9, `distilbert-base-uncased` 5,
            `microsoft/deberta-v3-base` 9.
        output (`str`, *optional*, defaults to `"f1"`):
            One of the table.
        batch_size (`int`, *optional*, defaults to `64`):
            Texts in one forward pass. The references of a row are one pass of their own.
        device (`str`, *optional*):
            Device of the model. Defaults to the GPU current at the first call if there is one, else to the CPU.
        column (`str`, *optional*, defaults to `"references"`):
            Dataset column with a string or a list of strings per row.
        name (`str`, *optional*, defaults to `"bertscore"`):
            Name under which trainers log it.
        cache_size (`int`, *optional*, defaults to `128`):
            Rows whose embedded references are kept, on the model's device.

    Raises:
        ValueError: for an unknown output or layer, if the model cannot be loaded or lacks weights, or if the tokenizer
            has no padding token.
    """

    def __init__(
        self,
        model: str,
        layer: int,
        output: str = "f1",
        batch_size: int = 64,
        device: str | None = None,
        column: str = "references",
        name: str = "bertscore",
        cache_size: int = 128,
    ):
        if output not in _RANGES:
            raise ValueError(f"`output` must be one of {list(_RANGES)}, got {output!r}.")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        super().__init__(name, column, cache_size)
        self.range = _RANGES[output]
        self.model = model
        self.layer = layer
        self.output = output
        self.batch_size = batch_size
        self.device = device
        self._encoder: Any = None
        self._load()

    def _load(self) -> None:
        from transformers import AutoTokenizer

        try:
            # As in the library: to a byte-level tokenizer (RoBERTa's) the first word is one like the others.
            self._tokenizer = AutoTokenizer.from_pretrained(self.model, add_prefix_space=True, trust_remote_code=False)
            self._encoder = _load_encoder(self.model, self.layer).requires_grad_(False).eval()
        except OSError as error:
            reason = str(error).strip().split("\n")[0].rstrip(".")
            raise ValueError(
                f"No encoder with its tokenizer could be loaded from {self.model!r} ({reason}). Give a hub id, or a "
                "folder written by `save_pretrained`."
            ) from error
        if self._tokenizer.pad_token_id is None:
            raise ValueError(f"The tokenizer of {self.model!r} has no padding token: take an encoder such as BERT.")
        limits = [self._tokenizer.model_max_length, getattr(self._encoder.config, "max_position_embeddings", None)]
        self.max_length = min((limit for limit in limits if limit and limit < _NO_LIMIT), default=None)
        self._placed = False

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_encoder": None}

    @property
    def signature(self) -> str:
        """The model, the layer, and what is read of the matching."""
        output = f"output:{self.output}|idf:no|baseline:no|max:{self.max_length}"
        return f"bertscore|nrefs:var|model:{self.model}|layer:{self.layer}|{output}"

    def _place(self) -> None:
        """Moves the model when it is first used: by then each process of a distributed run has chosen its GPU."""
        import torch

        if self._encoder is None:
            self._load()
        if not self._placed:
            self._encoder.to(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self._placed = True

    def scores(
        self, completions: list[str], prompts: Sequence[Any] | None, columns: Mapping[str, Sequence[Any]]
    ) -> list[float | None]:
        """Returns the score of each text against its row of references."""
        references = self._prepare_rows(columns[self.column])
        texts = self._embed(completions)
        return [
            max(self._match(text, reference) for reference in of_row)
            for text, of_row in zip(texts, references, strict=True)
        ]

    def prepare(self, references: tuple[str, ...]) -> list[Embedded]:
        """Returns the embedded references of a row."""
        return self._embed(references)

    def _match(self, text: Embedded, reference: Embedded) -> float:
        if not text.counted.any() or not reference.counted.any():
            return 0.0
        cosines = text.vectors @ reference.vectors.T  # (T, R)
        precision = cosines.amax(dim=1)[text.counted].mean().clamp(-1, 1).item()  # clamp: rounding goes above 1
        recall = cosines.amax(dim=0)[reference.counted].mean().clamp(-1, 1).item()
        if self.output == "f1":
            return 2 * precision * recall / (precision + recall) if min(precision, recall) > 0 else 0.0
        return precision if self.output == "precision" else recall

    def _embed(self, texts: Sequence[str]) -> list[Embedded]:
        self._place()
        texts = [text.strip() for text in texts]
        # Neighbours in length share a batch, so that little of it is padding.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        embedded: dict[int, Any] = {}
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            embedded.update(zip(rows, self._embed_batch([texts[row] for row in rows]), strict=True))
        return [embedded[row] for row in range(len(texts))]

    def _embed_batch(self, texts: list[str]) -> list[Embedded]:
        import torch

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
        batch = batch.to(self._encoder.device)
        with torch.no_grad():
            vectors = self._encoder(**batch).last_hidden_state.float()
        vectors = vectors / vectors.norm(dim=-1, keepdim=True)
        ends = [index for index in (self._tokenizer.cls_token_id, self._tokenizer.sep_token_id) if index is not None]
        counted = ~torch.isin(batch["input_ids"], torch.tensor(ends, device=vectors.device))
        real = batch["attention_mask"].bool()
        return [Embedded(vectors[row, mask], counted[row, mask]) for row, mask in enumerate(real)]
