"""The reference policy that the KL penalty is measured to."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl.trainer.callbacks import SyncRefModelCallback
from trl.trainer.utils import use_adapter

from lmrl import core
from lmrl.models import add_scoring_forward, check_scoring_forward, fuse_activations, load_model, load_tokenizer
from lmrl.utils import known_as

from .configs import PolicyGradientConfig
from .engines import is_sharded, prepare_frozen
from .rollout import Rollout

logger = get_logger(__name__)

REFERENCE_NAME = "reference.safetensors"
REFERENCE_ADAPTER = "ref"  # TRL's name


class Reference:
    """
    The frozen policy, the penalty for leaving it, and the coefficient of that.

    KLs are in nats per completion, the mean over a rollout of all processes. `model` is the frozen model, which is put
    under the engine of the policy. It is None without a KL penalty, and for a policy with LoRA where no model is
    named: that is its own reference, without its adapter.
    """

    def __init__(self, model: Any, args: PolicyGradientConfig, accelerator: Accelerator) -> None:
        self.model = None if model is None else prepare_frozen(model, accelerator)
        self.args = args
        self.accelerator = accelerator
        self._moving_adapter: dict[str, Tensor] = {}

    def sync_callback(self, policy: Any) -> TrainerCallback:
        """
        Returns the callback that moves the reference after the policy (`sync_ref_model`). Where the reference is the
        policy without its adapter, that becomes a frozen copy of the adapter as it is now.
        """
        if self.model is not None:
            return ReferenceSync(self.accelerator.unwrap_model(self.model), self.accelerator)
        if is_sharded(self.accelerator):
            raise ValueError(
                "`sync_ref_model` must be False for an adapter under ZeRO-3 or FSDP, got True. Each process has a "
                "part of its weights only: take DDP or ZeRO-2."
            )
        _add_reference_adapter(policy)
        self._moving_adapter = {name: weight for name, weight, _ in _adapter_pairs(policy)}
        return ReferenceSync(policy, self.accelerator)

    @property
    def is_used(self) -> bool:
        """Whether there is a KL penalty."""
        return self.args.beta != 0

    @contextmanager
    def running(self, policy: Any) -> Iterator[Any]:
        """
        Yields the model to score a rollout with: without one of its own the policy, with its adapter off or replaced
        by TRL's frozen copy of the one that training started from.
        """
        if self.model is not None:
            yield self.model
            return
        unwrapped = self.accelerator.unwrap_model(policy)
        with use_adapter(
            unwrapped, adapter_name=REFERENCE_ADAPTER if REFERENCE_ADAPTER in unwrapped.peft_config else None
        ):
            yield policy

    def penalty(self, rollout: Rollout, beta: float) -> Tensor:
        """Returns `beta * k1` of each token, (B, T), and zeros where there is no reference."""
        if rollout.ref_log_probs is None:
            return torch.zeros_like(rollout.old_log_probs)
        return beta * core.k1(rollout.old_log_probs, rollout.ref_log_probs)

    def next_coefficient(self, beta: float, kl: float) -> float:
        """Returns the coefficient of the next rollout: that of this one, adapted to `kl_target` if there is one."""
        if self.args.kl_target is None:
            return beta
        num_samples = self.args.generation_batch_size
        return core.adaptive_coefficient(beta, kl, self.args.kl_target, self.args.kl_horizon, num_samples)

    def is_too_far(self, kl: float, step: int) -> bool:
        """Returns whether a KL is above `max_kl`, with a warning that names the step."""
        if self.args.max_kl is None or kl <= self.args.max_kl:
            return False
        logger.warning(
            f"Stopping at step {step}: the KL to the reference is {kl:.3f} nats per completion, above "
            f"max_kl={self.args.max_kl}."
        )
        return True

    def state_dict(self, beta: float) -> dict[str, float]:
        """Returns the coefficient if it adapts. One that does not may be changed on resuming."""
        return {} if self.args.kl_target is None else {"beta": beta}

    def restored_coefficient(self, beta: float, state: dict[str, Any]) -> float:
        """Returns the coefficient of a run that is resumed with what [`~Reference.state_dict`] returned."""
        return beta if self.args.kl_target is None else float(state.get("beta", beta))

    def save(self, folder: Path) -> None:
        """Writes a reference that moves into a checkpoint, on the process that saves."""
        if not self.args.sync_ref_model or not self.args.should_save or is_sharded(self.accelerator):
            return
        path = str(folder / REFERENCE_NAME)
        if self._moving_adapter:
            safetensors.torch.save_file(self._moving_adapter, path)
        else:
            safetensors.torch.save_model(self.accelerator.unwrap_model(self.model), path)

    def load(self, folder: Path) -> None:
        """Loads what [`~Reference.save`] wrote, into the reference of each process."""
        if not self.args.sync_ref_model:
            return
        path = str(folder / REFERENCE_NAME)
        if is_sharded(self.accelerator) or not Path(path).is_file():
            logger.warning(f"{folder} has no moving reference: it begins anew from the policy as it was given.")
        elif self._moving_adapter:
            for name, weight in safetensors.torch.load_file(path).items():
                self._moving_adapter[name].data.copy_(weight)
        else:
            safetensors.torch.load_model(self.accelerator.unwrap_model(self.model), path)


class ReferenceSync(SyncRefModelCallback):
    """TRL's, with the weights paired by their names: a policy with a critic has more of them than its reference, and
    one with adapters is its own."""

    @staticmethod
    def sync_target_model(model: nn.Module, target_model: nn.Module, alpha: float) -> None:
        """Mixes the weights of a policy into those of its reference."""
        if model is target_model:
            pairs = [(target, source) for _, target, source in _adapter_pairs(model)]
        else:
            weights = dict(model.named_parameters())
            pairs = [(target, weights[name]) for name, target in target_model.named_parameters()]
        targets, sources = (nn.ParameterList(weights) for weights in zip(*pairs, strict=True))
        SyncRefModelCallback.sync_target_model(sources, targets, alpha)


def _add_reference_adapter(policy: Any) -> None:
    """Gives a policy a frozen copy of its adapter, as TRL does with one that is trained further."""
    if REFERENCE_ADAPTER not in policy.peft_config:
        policy.add_adapter(REFERENCE_ADAPTER, copy.deepcopy(policy.active_peft_config))
    for _, target, source in _adapter_pairs(policy):
        target.data.copy_(source)
        target.requires_grad_(False)


def _adapter_pairs(policy: Any) -> list[tuple[str, nn.Parameter, nn.Parameter]]:
    """Returns name and weight of the reference's adapter, and the weight of the one that is trained."""
    weights = {tuple(name.split(".")): weight for name, weight in policy.named_parameters()}
    trained = policy.active_adapters[0]
    return [
        (".".join(path), weight, weights[tuple(trained if part == REFERENCE_ADAPTER else part for part in path)])
        for path, weight in weights.items()
        if REFERENCE_ADAPTER in path
    ]


def make_frozen_model(
    policy: Any, given: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase, args: PolicyGradientConfig
) -> Any:
    """
    Returns the frozen model that the KL is measured to: the one named by `reference_model_name_or_path`, else a copy
    of the policy as it is now, before it gets its scoring forward. None without a KL penalty, and with LoRA where none
    is named, unless there is a copy of the policy as it was `given`.

    Raises:
        ValueError: If the named model reads other tokens than the policy, or a reference cannot follow the policy.
    """
    name = args.reference_model_name_or_path
    has_adapter = is_peft_model(policy)
    if args.sync_ref_model and has_adapter and (name is not None or given is not None):
        raise ValueError(
            "`sync_ref_model` must be False for an adapter whose reference is another model, got True. Its weights "
            "have none there to be mixed into: leave it out, or `reference_model_name_or_path`, and a `bias` and "
            "`init_lora_weights` that change the base."
        )
    if args.beta == 0 or (name is None and has_adapter and given is None):
        return None
    reference = given or _copy(policy) if name is None else _load(name, policy, tokenizer, args)
    reference.eval().requires_grad_(False)
    add_scoring_forward(reference, args.temperature)
    check_scoring_forward(reference, args.temperature, args.scoring_pass)
    return reference


def _copy(policy: Any) -> Any:
    reference = copy.deepcopy(policy)
    reference.__dict__.pop("forward", None)  # TRL's, whose closure still holds the policy
    return reference


def _load(name: str, policy: Any, tokenizer: PreTrainedTokenizerBase, args: PolicyGradientConfig) -> PreTrainedModel:
    base = policy.get_base_model() if is_peft_model(policy) else policy
    with known_as("reference_model_name_or_path"):
        reference = load_model(name, dtype=base.dtype, trust_remote_code=args.trust_remote_code)
    _check_vocabulary(name, reference, base, tokenizer, args.trust_remote_code)
    if args.sync_ref_model and _shapes(reference) != _shapes(policy):
        raise ValueError(
            f"`sync_ref_model` must be False for a reference of other shapes than the policy, got True and {name!r}. "
            "It mixes the policy's weights into those of its reference: leave it out."
        )
    fuse_activations(reference)
    return reference


def _shapes(model: nn.Module) -> list[torch.Size]:
    return [parameter.shape for parameter in model.parameters()]


def _check_vocabulary(
    name: str, reference: PreTrainedModel, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trust: bool
) -> None:
    """The reference is given the ids that the policy has sampled. Rows of its embedding past these do no harm."""
    policy_size = policy.config.get_text_config().vocab_size
    reference_size = reference.config.get_text_config().vocab_size
    try:
        reference_vocabulary = load_tokenizer(name, trust_remote_code=trust).get_vocab()
    except ValueError:  # no tokenizer lies beside it: the number of tokens has to do
        reference_vocabulary = None
    remedy = "The KL of a token needs the same tokens in both: name a model with the policy's tokenizer."
    if reference_size < policy_size or (reference_vocabulary is None and reference_size != policy_size):
        raise ValueError(f"The reference {name!r} has {reference_size} tokens and the policy {policy_size}. {remedy}")
    if reference_vocabulary is None:
        return
    differing = sorted(tokenizer.get_vocab().items() ^ reference_vocabulary.items(), key=lambda item: item[1])
    if differing:
        token, token_id = differing[0]
        raise ValueError(
            f"The tokenizers of the policy and of the reference {name!r} differ in {len(differing)} tokens, such as "
            f"{token!r} with the id {token_id}. {remedy}"
        )
