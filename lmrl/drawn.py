"""What a sampler computes of the tokens that it draws: their log-probabilities, and the hidden states before them."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from lmrl.utils import replaced


class Drawn:
    """
    Log-probabilities of sampled tokens, and hidden states before them, kept while a sampler decodes.

    They are of the distribution that is drawn from: at the temperature of sampling, after all processors of logits.

    Args:
        with_states (`bool`, *optional*, defaults to `False`):
            Whether to keep the states, which the LM head reads.
    """

    def __init__(self, with_states: bool = False) -> None:
        self.with_states = with_states
        self._log_probs: list[Tensor] = []
        self._states: list[Tensor] = []
        self._of_row = torch.empty(0, dtype=torch.long)
        self._read: Tensor | None = None

    def begin(self, of_row: Tensor) -> None:
        """Begins a batch; `of_row`, (B,), is the index of each row's prompt, as each prompt is computed only once."""
        self._of_row = of_row
        self._log_probs = []
        self._states = []

    def keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """As a hook of the LM head's forward, keeps what the head reads: the states before the next tokens."""
        states = inputs[0][:, -1]
        self._read = states if self._log_probs else states[self._of_row.to(states.device)]

    def add(self, tokens: Tensor, probs: Tensor, logits: Tensor, rows: Tensor, batch: int) -> None:
        """
        Adds the log-probabilities of tokens, and the states before them.

        Args:
            tokens, rows (`torch.Tensor` of shape `(R,)`):
                Token ids, and the rows of the batch that they belong to.
            probs, logits (`torch.Tensor` of shape `(R, V)`):
                Probabilities that they are drawn with, and the policy's logits. Where a logit is not finite, the
                log-probability is NaN, even if a processor of logits has replaced it by a number.
            batch (`int`):
                Number of rows of the batch.
        """
        chosen = tokens[:, None]
        log_probs = probs.gather(1, chosen).log() + logits.gather(1, chosen) * 0.0
        self._log_probs.append(_in_batch(log_probs.squeeze(1), rows, batch))
        if self._read is not None:
            self._states.append(_in_batch(self._read.to(rows.device), rows, batch))
            self._read = None

    def set_lists(self, log_probs: Sequence[Sequence[float | None]]) -> None:
        """Takes the log-probabilities of an engine, one list per completion; a None, which it lacks, becomes NaN."""
        values = [[float("nan") if value is None else value for value in row] for row in log_probs]
        self.put(pad_sequence([torch.tensor(row, dtype=torch.float32) for row in values], batch_first=True), None)

    def take(self, width: int) -> tuple[Tensor | None, Tensor | None]:
        """
        Returns the log-probabilities of a batch, (B, T), and its states, (B, T, D), for T tokens, and forgets them:
        None for what the sampler did not give. What is past the end of a completion has no meaning.
        """
        log_probs = torch.stack(self._log_probs[:width], dim=1) if self._log_probs else None
        has_states = self._states and len(self._states) == len(self._log_probs)
        states = torch.stack(self._states[:width], dim=1) if has_states else None
        self._log_probs = []
        self._states = []
        if log_probs is not None:
            missing = width - log_probs.shape[1]  # where completions are padded to a multiple
            log_probs = pad(log_probs, (0, missing))
            states = None if states is None else pad(states, (0, 0, 0, missing))
        return log_probs, states

    def put(self, log_probs: Tensor | None, states: Tensor | None) -> None:
        """Puts back what [`~Drawn.take`] gave."""
        self._log_probs = [] if log_probs is None else list(log_probs.unbind(dim=1))
        self._states = [] if states is None else list(states.unbind(dim=1))


@contextmanager
def recording(record: Drawn | None, model: Any, of_row: Tensor) -> Iterator[None]:
    """Makes a record keep the states of a model that decodes a batch in the context."""
    if record is None:
        yield
        return
    record.begin(of_row)
    head = model.get_output_embeddings()
    with head.register_forward_pre_hook(record.keep) if record.with_states else nullcontext():
        yield


@contextmanager
def replacing_rows(record: Drawn | None, rows: list[int], is_replaced: list[bool], width: int) -> Iterator[None]:
    """
    Keeps the batch that a record has, except for the rows that are drawn anew in the context.

    Args:
        record ([`Drawn`], *optional*):
            Without one there is nothing to hold.
        rows (`list[int]`):
            Places, in the batch, of the rows that are drawn.
        is_replaced (`list[bool]`):
            For each row of the batch, whether the one drawn for it replaces it.
        width (`int`):
            Number of tokens that a completion may have.
    """
    if record is None:
        yield
        return
    earlier = record.take(width)
    yield
    drawn = [number for number, row in enumerate(rows) if is_replaced[row]]
    places = torch.tensor([rows[number] for number in drawn], dtype=torch.long)
    merged = [
        None if before is None or after is None else before.index_copy(0, places.to(before.device), after[drawn])
        for before, after in zip(earlier, record.take(width), strict=True)
    ]
    record.put(*merged)


@contextmanager
def recording_batches(record: Drawn | None, model: Any) -> Iterator[None]:
    """Makes a record keep the log-probabilities of what transformers' continuous batching samples in the context."""
    if record is None:
        yield
        return
    generate_batch = model.generate_batch

    def generate(*args: Any, generation_config: Any, continuous_batching_config: Any, **options: Any) -> Any:
        """Returns the outputs of a batch by their requests."""
        config = copy.copy(continuous_batching_config)
        config.return_logprobs = generation_config.do_sample
        given = {"generation_config": generation_config, "continuous_batching_config": config}
        outputs = generate_batch(*args, **given, **options)
        if generation_config.do_sample:
            record.set_lists([output.logprobs for output in outputs.values()])
        return outputs

    with replaced(model, "generate_batch", generate):
        yield


def recording_vllm(record: Drawn, generation: Any) -> None:
    """Makes TRL's `VLLMGeneration` request the log-probabilities of tokens, and a record keep them."""
    generation.logprobs = 0  # of the sampled token alone, and of no others
    inner = generation.generate

    def generate(*args: Any, **options: Any) -> Any:
        """Returns what vLLM has sampled, as TRL expects it."""
        outputs = inner(*args, **options)
        record.set_lists([[of_token[0] for of_token in row] for row in outputs[2]])
        return outputs

    generation.generate = generate


def _in_batch(values: Tensor, rows: Tensor, batch: int) -> Tensor:
    if len(rows) == batch:
        return values.clone()  # a copy: a graph overwrites them
    return values.new_zeros((batch, *values.shape[1:])).index_copy(0, rows, values)
