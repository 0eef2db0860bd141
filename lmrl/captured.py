"""Decoding by a CUDA graph: the forward of one more token of each row, launched at once."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer
from transformers.utils import logging

from lmrl.steps import GrowingStep, SeldomLook

logger = logging.get_logger(__name__)

LENGTH_STEP = 64  # the cache has room for a multiple of so many tokens, so that few lengths are captured
_MOST_KEPT = 4  # graphs, each of which has a cache of its own
_SHARE_KEPT = 0.05  # of a GPU's memory that caches may take between two rollouts
_WARM_UPS = 2


class CapturedSteps:
    """
    Graphs that decode, kept for the next batch with as many rows and the same weights in the same memory.

    Args:
        captures (`bool`, *optional*, defaults to `True`):
            Whether steps are captured, which a GPU can do. Otherwise the same step, with its buffers of a fixed size,
            is run as it is, on any device.
    """

    def __init__(self, captures: bool = True) -> None:
        self.captures = captures
        self._steps: OrderedDict[Any, CapturedStep] = OrderedDict()

    def __len__(self) -> int:
        return len(self._steps)

    def begin(
        self,
        plain: GrowingStep,
        ids: Tensor,
        length: int,
        on_states: Callable[..., None] | None = None,
    ) -> "CapturedStep | None":
        """
        Returns a step that goes on from where the plain one is, or None where the model decodes without a graph.

        A new one is compared with the plain step. Where it differs by more than rounding, or the forward cannot be
        captured, the model decodes without graphs from then on, with a line in the log.

        Args:
            plain ([`GrowingStep`]):
                Step without a graph, with a cache of all rows, which is emptied.
            ids (`torch.Tensor` of shape `(B, S)`):
                Token ids so far.
            length (`int`):
                The most tokens that a row will have, those of its prompt included.
            on_states (`Callable`, *optional*):
                Called after each step with the inputs of the LM head, like a hook of its forward.
        """
        model = plain.model
        arguments = plain.arguments
        cache = arguments["past_key_values"]
        if self.captures and not _is_capturable(model):
            return None
        if not all(type(layer) is DynamicLayer for layer in cache.layers):
            _refuse(model, "its cache is more than keys and values of all tokens")
            return None
        room = -(-length // LENGTH_STEP) * LENGTH_STEP
        key = (len(ids), room, *_state_of(model, arguments))
        step = self._steps.pop(key, None)
        try:
            if step is None:
                step = CapturedStep(model, cache, arguments, room, self.captures)
                difference = step.difference(cache, arguments, ids)
                if not difference <= step.tolerance:  # not of NaN
                    raise RuntimeError(f"its logits differ by {difference:.2g}")
        except (RuntimeError, NotImplementedError) as error:
            _refuse(model, str(error).split("\n")[0])
            return None
        step.fill(cache, arguments)
        cache.layers.clear()  # frees it
        step.on_states = on_states
        step.ends = SeldomLook(step.device, length - ids.shape[1] + 1)
        self._steps[key] = step
        return step

    def trim(self) -> None:
        """Frees the least recently used graphs as long as there are too many, or their caches are too large."""
        while self._steps:
            first = next(iter(self._steps.values()))
            most = torch.cuda.get_device_properties(first.device).total_memory if self.captures else 2**30
            if len(self) <= _MOST_KEPT and sum(step.size for step in self._steps.values()) <= _SHARE_KEPT * most:
                return
            self._steps.popitem(last=False)

    def clear(self) -> None:
        """Frees all."""
        self._steps.clear()


class CapturedStep:
    """
    The forward of one token of each row, on buffers that stay where they are: called with the ids so far, it returns
    the logits of the next token, (B, V), which the next call overwrites.

    Rows that have ended stay: at the sizes of a rollout a token takes the time of its kernels' launches and of reading
    the weights, whatever the number of rows.
    """

    rows_leave = False

    def __init__(
        self, model: Any, cache: DynamicCache, arguments: Mapping[str, Any], length: int, captures: bool
    ) -> None:
        keys = cache.layers[0].keys
        self.device = keys.device
        self.tolerance = 1e-4 if keys.dtype == torch.float32 else 8 * torch.finfo(keys.dtype).eps
        self.on_states: Callable[..., None] | None = None
        self.ends = SeldomLook(self.device, 1)
        self._model = model
        self._read: tuple[Tensor, ...] = ()
        self._ids = torch.zeros(len(keys), 1, dtype=torch.long, device=self.device)
        self._layers = [StaticLayer(max_cache_len=length) for _ in cache.layers]
        for static, layer in zip(self._layers, cache.layers, strict=True):
            static.cumulative_length = torch.zeros((), dtype=torch.long, device=self.device)  # graphs read no CPU data
            static.lazy_initialization(layer.keys, layer.values)
        self.size = sum(part.nbytes for layer in self._layers for part in (layer.keys, layer.values))
        self._inputs = {
            name: value.new_ones(len(value), length) if name == "attention_mask" else value[:, -1:].clone()
            for name, value in arguments.items()
            if isinstance(value, Tensor)
        }
        others = {name: value for name, value in arguments.items() if not isinstance(value, Tensor | Cache)}
        self._arguments = {**others, **self._inputs, "past_key_values": Cache(layers=self._layers)}
        self._graph: Any = None
        if captures:
            self.fill(cache, arguments)
            self._capture()

    def fill(self, cache: DynamicCache, arguments: Mapping[str, Any]) -> None:
        """Writes a cache and the arguments for the next token into the buffers."""
        for static, layer in zip(self._layers, cache.layers, strict=True):
            width = layer.keys.shape[2]
            static.cumulative_length.fill_(width)
            for buffer, found in ((static.keys, layer.keys), (static.values, layer.values)):
                buffer[:, :, :width] = found
                buffer[:, :, width:] = 0.0  # NaN of earlier batches would spread, masked or not
        for name, buffer in self._inputs.items():
            if name == "attention_mask":
                width = arguments[name].shape[1]
                buffer[:, :width] = arguments[name]
                buffer[:, width:] = 1  # places of later tokens are masked by their position
            else:
                buffer.copy_(arguments[name][:, -1:])

    def __call__(self, ids: Tensor) -> Tensor:
        """Returns the logits of the token after `ids`, (B, S), of which only the last column is new."""
        self._ids.copy_(ids[:, -1:])
        if self._graph is None:
            self._logits = self._forward()
        else:
            self._graph.replay()
        if self.on_states is not None:
            self.on_states(None, self._read)
        return self._logits

    def difference(self, cache: DynamicCache, arguments: Mapping[str, Any], ids: Tensor) -> float:
        """Returns the mean difference of the logits from those of the plain step, relative to their mean size."""
        plain = self._model.prepare_inputs_for_generation(ids, next_sequence_length=1, **arguments)
        expected = self._model(**plain, return_dict=True).logits[:, -1].float()
        cache.crop(-1)
        self.fill(cache, arguments)
        found = self(ids).float()
        # A constant added to a row of logits changes no probability, and may be large: GPT-2's are about -100.
        expected = expected - expected.mean(dim=1, keepdim=True)
        found = found - found.mean(dim=1, keepdim=True)
        return float((found - expected).abs().mean() / expected.abs().mean().clamp(min=1e-30))

    def _forward(self) -> Tensor:
        inputs = self._model.prepare_inputs_for_generation(self._ids, next_sequence_length=1, **self._arguments)
        with self._model.get_output_embeddings().register_forward_pre_hook(self._keep):
            logits: Tensor = self._model(**inputs, return_dict=True).logits[:, -1]
        if "position_ids" in self._inputs:
            self._inputs["position_ids"].add_(1)
        return logits

    def _keep(self, _: Any, inputs: tuple[Tensor, ...]) -> None:
        self._read = inputs

    def _capture(self) -> None:
        """Captures the forward. Raises a `RuntimeError` where it waits for the GPU or draws random numbers."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        try:
            with torch.cuda.device(self.device), torch.cuda.stream(stream):
                self._warm_up()
                self._graph = self._captured()
        finally:
            torch.cuda.current_stream(self.device).wait_stream(stream)

    def _warm_up(self) -> None:
        before = torch.cuda.get_rng_state()
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("error")  # a wait during the capture would break more than this graph
        try:
            for _ in range(_WARM_UPS):
                self._forward()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        if not torch.equal(torch.cuda.get_rng_state(), before):
            torch.cuda.set_rng_state(before)
            raise RuntimeError("its forward draws random numbers")

    def _captured(self) -> Any:
        torch.cuda.synchronize()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        state = generator.clone_state()
        graph = torch.cuda.CUDAGraph()
        # Not by `torch.cuda.graph`, which empties the cache of all memory. Other threads may use the GPU.
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            try:
                self._logits = self._forward()
            finally:
                graph.capture_end()
        except BaseException:
            generator.graphsafe_set_state(state)  # else the generator counts as captured for ever
            raise
        return graph


def _is_capturable(model: Any) -> bool:
    """Returns whether the model may decode by a graph: on one GPU, with a forward that transformers compiles."""
    is_on_gpu = model.device.type == "cuda" and bool(torch.version.cuda or torch.version.hip)
    if not is_on_gpu or not getattr(model, "use_cuda_graphs", True):
        return False
    reasons = {
        "its layers are on several devices": len(set(getattr(model, "hf_device_map", {}).values())) > 1,
        "its weights are shards": isinstance(model, FSDPModule) or hasattr(next(model.parameters()), "ds_id"),
        "its weights are quantized": getattr(model, "hf_quantizer", None) is not None,
        "transformers does not compile it either": not model._can_compile_fullgraph,
    }
    for reason, applies in reasons.items():
        if applies:
            _refuse(model, reason)
            return False
    return True


def _refuse(model: Any, reason: str) -> None:
    """Makes a model decode without graphs from now on, with a line in the log."""
    logger.warning(f"{type(model).__name__} decodes without CUDA graphs: {reason}.")
    model.use_cuda_graphs = False


def _state_of(model: Any, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns what a model's graph depends on: the places of its weights, the adapters that run, and its arguments."""
    places = [(tensor.data_ptr(), tensor.dtype) for tensor in (*model.parameters(), *model.buffers())]
    adapters = [
        (module.disable_adapters, tuple(module.active_adapters), tuple(module.merged_adapters))
        for module in model.modules()
        if isinstance(module, BaseTunerLayer)
    ]
    names = sorted(name for name, value in arguments.items() if value is not None)
    return (*names, model.training, *places, *adapters)
