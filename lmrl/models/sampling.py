"""Sampling from a policy: weights in the compute precision, neutral generation defaults, and the decoding loop."""

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation.logits_process import (
    InfNanRemoveLogitsProcessor,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

from lmrl.captured import CapturedSteps
from lmrl.drawn import Drawn, recording
from lmrl.steps import ROW_ARGUMENTS, GrowingStep, of_rows
from lmrl.utils import replaced


class DecodingWeights:
    """
    Copies of a policy's float32 weights in the precision that it decodes in.

    Autocast casts every weight again at every token, which makes decoding slower than in float32. Here each weight is
    cast once a rollout, into memory that is kept, as a CUDA graph requires. The copies take the places of the
    parameters in their modules. The parameters themselves are never written to: if a parameter's data were replaced
    by data of another type, autograd would drop the node on which DDP's hook is, and the processes would train apart.

    Args:
        mixed_precision (`str`):
            Precision of autocast, as Accelerate names it: `"bf16"`, `"fp16"`, or `"no"` without autocast, where the
            policy decodes with its parameters.
    """

    def __init__(self, mixed_precision: str) -> None:
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision)
        self._copies: dict[nn.Parameter, nn.Parameter] = {}
        self.graphs = CapturedSteps()  # they read the copies, so they stay valid in the next rollout

    @contextmanager
    def replacing(self, model: PreTrainedModel) -> Iterator[None]:
        """
        Runs the model with the copies, and with its forward unwrapped, until the context is left.

        Not for parameters that are shards (ZeRO-3, FSDP), nor for a model wrapped by PEFT (pass its base model; its
        adapters are cast too). The critic is left as it is.
        """
        if self.dtype is None:
            yield
            return
        places = [
            (module._parameters, name, parameter)
            for path, module in model.named_modules()
            if path.split(".")[0] != "critic"
            for name, parameter in module._parameters.items()
            if parameter is not None and parameter.dtype == torch.float32
        ]
        copies = {parameter: self._updated_copy(parameter) for parameter in {place[2] for place in places}}
        plain = types.MethodType(type(model).forward, model)  # without autocast and the scoring forward
        try:
            for parameters, name, parameter in places:
                parameters[name] = copies[parameter]
            with replaced(model, "forward", plain):
                yield
        finally:
            for parameters, name, parameter in places:
                parameters[name] = parameter

    @torch.no_grad()
    def _updated_copy(self, parameter: nn.Parameter) -> nn.Parameter:
        copy = self._copies.get(parameter)
        if copy is None or (copy.device, copy.shape) != (parameter.device, parameter.shape):
            copy = nn.Parameter(parameter.to(self.dtype), requires_grad=False)
            self._copies[parameter] = copy
        else:
            copy.copy_(parameter)
        return copy


@contextmanager
def neutral_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """
    Replaces the model's own generation defaults within the context.

    `generate` takes every option that the caller does not set from the checkpoint's `generation_config.json`, where a
    `no_repeat_ngram_size` or a `min_new_tokens` would change the distribution that is sampled from. NaN in the logits
    raises no error here, where it would stop one of several processes, or break a GPU's context: scoring reports it.
    """
    own = model.generation_config
    neutral = GenerationConfig(
        eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id, remove_invalid_values=True
    )
    with replaced(model, "generation_config", neutral):
        yield


# Processors and criteria that read each row by itself; others may keep state for all rows of the batch.
_ROW_PROCESSORS = (
    *(InfNanRemoveLogitsProcessor, MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper),
    *(EosTokenCriteria, MaxLengthCriteria),
)
_SHARE_ENDED = 0.125  # ended rows leave once they are this share of the batch, as that copies the cache


@contextmanager
def sampling_together(
    model: PreTrainedModel, record: Drawn | None = None, graphs: CapturedSteps | None = None
) -> Iterator[None]:
    """Makes `generate` of a model decode by [`draw`] within the context."""
    decode = functools.partial(draw, record=record, graphs=graphs)
    with replaced(model, "generate", functools.partial(model.generate, custom_generate=decode)):
        yield
    if graphs is not None:
        graphs.trim()


def draw(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: GenerationConfig,
    record: Drawn | None = None,
    graphs: CapturedSteps | None = None,
    **others: Any,
) -> Any:
    """
    Returns sequences as `generate` does: it is the decoding loop for `custom_generate=draw`. Each distinct prompt is
    computed once, and rows that have ended leave the batch, unless a processor of logits may depend on the batch.
    Where a GPU can decode by a CUDA graph, rows stay; `graphs` keeps the graph for the next batch.

    `generate` prepares everything else, such as processors of logits and stopping criteria. Tokens are drawn as by
    `torch.multinomial`, with random numbers for the complete batch, so the same seed gives the same tokens as
    `generate`; their log-probabilities and states go into `record`. Where the cache is no plain list of keys and
    values, or more than sequences is to be returned, `generate`'s own loop decodes.
    """
    tensors = {name: value for name, value in others.items() if isinstance(value, Tensor)}
    cache: Any = others.get("past_key_values")
    is_own = others.get("synced_gpus") or others.get("streamer") is not None or not _is_plain(cache)
    has_more = generation_config.return_dict_in_generate or model.config.is_encoder_decoder
    if is_own or has_more or tensors.keys() - {*ROW_ARGUMENTS} or any(value.ndim != 2 for value in tensors.values()):
        rest = {"synced_gpus": False, **others}
        return model._sample(input_ids, logits_processor, stopping_criteria, generation_config, **rest)

    may_leave = all(isinstance(one, _ROW_PROCESSORS) for one in (*logits_processor, *stopping_criteria))
    batch = len(input_ids)
    rows = torch.arange(batch, device=input_ids.device)  # those that are left
    first, of_row = _distinct(torch.cat([input_ids, tensors.get("attention_mask", input_ids)], dim=1))
    arguments = {name: value for name, value in others.items() if name not in ("synced_gpus", "streamer")}
    record = record if generation_config.do_sample else None
    with model._optimize_model_for_decode(), recording(record, model, of_row):
        outputs = model._prefill(input_ids[first], generation_config, of_rows(arguments, first))
        logits = outputs.logits[:, -1][of_row]
        cache.batch_select_indices(of_row)
        step: Any = GrowingStep(model, outputs, arguments)
        ids = input_ids
        is_left = torch.ones_like(rows, dtype=torch.bool)
        filler = _filler(generation_config)
        drawn: list[Tensor] = []
        while True:
            step.ends.before()
            scores = logits_processor(ids, logits.to(copy=True, dtype=torch.float32))
            if generation_config.do_sample:
                # As in `torch.multinomial`: the numbers of a row do not depend on which others are left.
                noise = torch.empty(batch, scores.shape[1], device=scores.device).exponential_()
                noise = noise if len(rows) == batch else noise[rows]
                probs = scores.softmax(-1)
                scores = torch.div(probs, noise, out=noise)
            tokens = scores.argmax(-1)
            if record is not None:
                record.add(tokens, probs, logits, rows, batch)
            tokens = torch.where(is_left, tokens, filler)
            ids = torch.cat([ids, tokens[:, None]], dim=1)
            is_left &= ~stopping_criteria(ids, None)
            is_complete = len(rows) == batch
            drawn.append(tokens if is_complete else tokens.new_full((batch,), filler).index_copy(0, rows, tokens))
            count = step.ends.count(is_left)
            if count == 0:
                return torch.cat([input_ids, torch.stack(drawn[: step.ends.width], dim=1)], dim=1)
            if len(drawn) == 1:  # the next forward is the first that reads the cache
                on_states = record.keep if record is not None and record.with_states else None
                store = CapturedSteps() if graphs is None else graphs
                step = store.begin(step, ids, generation_config.max_length, on_states) or step
            if may_leave and step.rows_leave and count <= (1 - _SHARE_ENDED) * len(rows):
                kept = is_left.int().argsort(descending=True, stable=True)[:count]  # needs no wait for a GPU
                rows, ids, is_left = (value[kept] for value in (rows, ids, is_left))
                step.keep(kept)
            logits = step(ids)


def _filler(generation_config: GenerationConfig) -> int:
    """Returns the token that fills a row after its end."""
    filler: int | None = generation_config.pad_token_id
    if filler is None:  # `generate` fills with EOS then; to read it waits for the GPU
        padding: Tensor | None = generation_config._pad_token_tensor
        filler = 0 if padding is None else int(padding)
    return filler


def _is_plain(cache: Any) -> bool:
    """Returns whether a cache is empty and holds plain keys and values, of which rows can be selected."""
    layers = getattr(cache, "layers", [])
    is_list = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return type(cache) is DynamicCache and is_list and cache.get_seq_length() == 0


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the index of the first of equal rows, (P,), and for each row which of these it equals, (B,)."""
    distinct, of_row = torch.unique(rows, dim=0, return_inverse=True)
    indices = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(indices, len(rows)).scatter_reduce(0, of_row, indices, "amin")
    return first[: len(distinct)], of_row
