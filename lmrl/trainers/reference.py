"""The reference policy that the KL penalty is measured to, and the passes of policy and reference over a rollout."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from torch import Tensor, nn
from transformers import TrainerCallback
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.callbacks import SyncRefModelCallback
from trl.trainer.utils import use_adapter

from lmrl import core
from lmrl.models import ScoredCompletions

from .configs import PolicyGradientConfig
from .engines import is_sharded, prepare_frozen
from .rollout import Rollout

logger = get_logger(__name__)

REFERENCE_NAME = "reference.safetensors"
REFERENCE_ADAPTER = "ref"  # TRL's name


class Reference:
    """
    The reference policy, the KL penalty for moving away from it, and the coefficient of the penalty.

    KLs are in nats per completion, the mean over a rollout of all processes. `model` is the frozen model in the
    engine of the policy; None without a KL penalty, and for a policy that is its own reference with its adapter off.
    """

    def __init__(self, model: Any, args: PolicyGradientConfig, accelerator: Accelerator) -> None:
        self.model = None if model is None else prepare_frozen(model, accelerator)
        self.args = args
        self.accelerator = accelerator
        self._moving_adapter: dict[str, Tensor] = {}

    def sync_callback(self, policy: Any) -> TrainerCallback:
        """
        Returns the callback that moves the reference towards the policy (`sync_ref_model`). Where the reference was
        the policy with its adapter off, it becomes the policy with a frozen copy of its adapter as it is now.
        """
        if self.model is not None:
            return ReferenceSync(self.accelerator.unwrap_model(self.model), self.accelerator)
        if is_sharded(self.accelerator):
            raise ValueError(
                "`sync_ref_model` must be False for an adapter under ZeRO-3 or FSDP, got True. Each process has a "
                "part of its weights only: take DDP or ZeRO-2."
            )
        if REFERENCE_ADAPTER not in policy.peft_config:  # TRL makes it for an adapter that is trained further
            policy.add_adapter(REFERENCE_ADAPTER, copy.deepcopy(policy.active_peft_config))
        for name, weight, source in _adapter_pairs(policy):
            weight.data.copy_(source)
            self._moving_adapter[name] = weight.requires_grad_(False)
        return ReferenceSync(policy, self.accelerator)

    @contextmanager
    def running(self, policy: Any) -> Iterator[Any]:
        """
        Yields the model that scores as the reference: its own or, without one, the policy with its adapter off, or
        with the frozen copy `ref` in place of it (for an adapter that is trained further, and with `sync_ref_model`).
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
        """
        Returns the KL penalty at each token, (B, T), and zeros where there is no reference: `beta * k1`, or `beta`
        times the exact KL over the vocabulary, which depends on the state before the token, not on the token.

        Raises a `ValueError` with `kl_scope="token"`, where it is no part of the reward: see [`~Reference.penalties`].
        """
        if self.args.kl_scope == "token":
            raise ValueError(
                "`kl_scope` must be 'completion' with this trainer, got 'token'. Its credit has one penalty for a "
                "token and those before it: have it read `reference.penalties`."
            )
        if rollout.exact_kl is None:
            return self.own_penalty(rollout, beta)
        return beta * rollout.exact_kl

    def own_penalty(self, rollout: Rollout, beta: float) -> Tensor:
        """Returns the penalty that each token itself causes, `beta * k1`, (B, T), with either estimator."""
        if rollout.ref_log_probs is None:
            return torch.zeros_like(rollout.old_log_probs)
        return beta * core.k1(rollout.old_log_probs, rollout.ref_log_probs)

    def penalties(self, rollout: Rollout, beta: float) -> tuple[Tensor, Tensor]:
        """
        Returns two penalties at each token, (B, T). The first, a part of the reward, counts for all tokens before; it
        is 0 with `kl_scope="token"`. The second counts for the token itself: `beta * k1`, or, with that scope and the
        exact KL, `beta * (k1 - KL)`: k1 minus its mean in this state, which changes no expected gradient.
        """
        own_penalty = self.own_penalty(rollout, beta)
        if self.args.kl_scope == "token":
            in_mean = 0.0 if rollout.exact_kl is None else beta * rollout.exact_kl
            return torch.zeros_like(own_penalty), own_penalty - in_mean
        return self.penalty(rollout, beta), own_penalty

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

    def save(self, folder: Path) -> None:
        """Writes a moving reference (`sync_ref_model`) into a checkpoint, on the process that saves."""
        if self.args.sync_ref_model and self.args.should_save and not is_sharded(self.accelerator):
            weights = self._moving_adapter or dict(self.accelerator.unwrap_model(self.model).named_parameters())
            safetensors.torch.save_file(weights, folder / REFERENCE_NAME)

    def load(self, folder: Path) -> None:
        """Loads what [`~Reference.save`] wrote, into the reference of each process."""
        if not self.args.sync_ref_model:
            return
        path = folder / REFERENCE_NAME
        if is_sharded(self.accelerator) or not path.is_file():
            logger.warning(f"{folder} has no moving reference: it begins anew from the policy as it was given.")
            return
        weights = self._moving_adapter or self.accelerator.unwrap_model(self.model).state_dict()
        for name, weight in safetensors.torch.load_file(path).items():
            weights[name].data.copy_(weight)


class Scorer:
    """Runs the policy or the reference, a model in its engine, over completions, under the accelerator's autocast."""

    def __init__(self, accelerator: Accelerator, args: PolicyGradientConfig) -> None:
        self.accelerator = accelerator
        self.args = args

    def forward(self, model: Any, rollout: Rollout, with_values: bool = False, **options: Any) -> ScoredCompletions:
        """Returns log-probabilities and entropies, (B, T), and with `with_values` the values of the critic."""
        with self.accelerator.autocast():
            scored: ScoredCompletions = model(
                input_ids=rollout.input_ids,
                attention_mask=rollout.attention_mask,
                completion_length=rollout.completion_ids.shape[1],
                with_values=with_values,
                **options,
            )
        return scored

    @torch.no_grad()
    def score(
        self, rollout: Rollout, policy: Any, reference: Reference, with_policy: bool, has_critic: bool
    ) -> Rollout:
        """
        Returns a rollout with its log-probabilities under the reference and, with `with_policy`, those under the
        policy that sampled it and its critic's values, unless they came with the tokens. Runs in batches.
        """
        args = self.args
        batch_size = args.per_device_train_batch_size if policy.training else args.per_device_eval_batch_size

        def _run(model: Any, with_values: bool = False) -> ScoredCompletions:
            parts = [self.forward(model, batch, with_values) for batch in rollout.split(batch_size)]
            return ScoredCompletions(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})

        scored = rollout
        with disable_gradient_checkpointing(policy, args.gradient_checkpointing_kwargs):
            if with_policy and rollout.old_log_probs is None:  # else they came with the tokens
                scored = scored.with_policy_pass(_run(policy, has_critic))
            if args.beta != 0 and args.kl_estimator == "exact":
                pairs = [self._exact_kl(batch, policy, reference) for batch in rollout.split(batch_size)]
                ref_log_probs, kl = (torch.cat(parts) for parts in zip(*pairs, strict=True))
                scored = replace(scored, ref_log_probs=ref_log_probs, exact_kl=kl)
            elif args.beta != 0:
                with reference.running(policy) as model:
                    scored = replace(scored, ref_log_probs=_run(model).log_probs)
        return scored

    def _exact_kl(self, batch: Rollout, policy: Any, reference: Reference) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities under the reference, and the KL over the vocabulary to it, (B, T) each."""
        every = self.forward(policy, batch, with_all=True).all_log_probs  # of one batch at a time: it is large
        with reference.running(policy) as model:
            scored = self.forward(model, batch, kl_from=every)
        return scored.log_probs, scored.kl


class ReferenceSync(SyncRefModelCallback):
    """TRL's callback with weights paired by name: a policy may also have a critic, or be its own reference (LoRA)."""

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


def _adapter_pairs(policy: Any) -> list[tuple[str, nn.Parameter, nn.Parameter]]:
    """Returns, for each weight of the reference's adapter, its name, itself and the weight of the trained adapter."""
    weights = {tuple(name.split(".")): weight for name, weight in policy.named_parameters()}
    trained = policy.active_adapters[0]
    return [
        (".".join(path), weight, weights[tuple(trained if part == REFERENCE_ADAPTER else part for part in path)])
        for path, weight in weights.items()
        if REFERENCE_ADAPTER in path
    ]
