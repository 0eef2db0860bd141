"""What the trainers log, from the very tensors that are trained on, as sums over all processes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalLoopOutput
from trl import RLOOTrainer

from lmrl import core

from .engines import gathered_policy


class MeasuredTrainer(RLOOTrainer):
    """
    RLOO with its measurements: it never changes what is trained.

    Under TRL's names where it has them: `reward`, `reward_std`, `rewards/<name>/mean`, `rewards/<name>/std`, `kl`
    (nats per token), `entropy`, `completions/mean_length`, `completions/clipped_ratio` (share that did not end),
    `clip_ratio/region_mean`. Ours: `kl_per_sequence`, `kl_coef`, `advantages/mean`, `advantages/std`, seconds in
    `time/generation`, `time/scoring`, `time/reward` and `time/update` since the last log, `samples_per_second`,
    `tokens_per_second`.

    Attributes:
        held_out_metrics (`Callable`, *optional*):
            What `evaluate` measures instead of a rollout on the held-out prompts: a function of the policy that gives
            its metrics by name. Every process calls it, and must get the same.
    """

    held_out_metrics: Callable[[PreTrainedModel], dict[str, float]] | None = None

    def evaluation_loop(
        self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Returns the metrics of the held-out rows as Trainer wants them: `eval_bleu`, `eval_length` and so on."""
        if self.held_out_metrics is None:
            return super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        self.model.eval()
        with self.gathered_policy() as policy:
            metrics = self.held_out_metrics(policy)
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(None, None, named, num_samples=len(dataloader.dataset))

    def gathered_policy(self) -> AbstractContextManager[PreTrainedModel]:
        """
        Returns a context with the policy whole on every process, whatever the engine: evaluate it there, and save it
        with `save_model`.

            with trainer.gathered_policy() as policy:
                evaluation = evaluate_model(policy, tokenizer, rows, Decoding(max_new_tokens=64))

        Under ZeRO-3 and FSDP weights are shards outside of it, and a process that runs the policy once more than the
        others waits for ever. All processes must enter and leave it together.
        """
        return gathered_policy(self)

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    # -- time --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _clock(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[stage] += time.perf_counter() - started

    @property
    def _seconds(self) -> dict[str, float]:
        return self.__dict__.setdefault("_stage_seconds", defaultdict(float))

    def _count_completions(self, completions: int, tokens: int) -> None:
        if self.model.training:
            self._seconds["#samples"] += completions
            self._seconds["#tokens"] += tokens

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the loss of TRL's training step, and counts as update what was not spent on the rollout."""
        started, before = time.perf_counter(), self._rollout_seconds()
        loss = super().training_step(*args, **kwargs)
        self._seconds["update"] += time.perf_counter() - started - (self._rollout_seconds() - before)
        return loss

    def _rollout_seconds(self) -> float:
        return sum(self._seconds[stage] for stage in ("generation", "scoring", "reward"))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the time spent since the last log of training."""
        if self.model.training and (spent := self._rollout_seconds() + self._seconds["update"]) > 0:
            stages = ("generation", "scoring", "reward", "update")
            logs |= {f"time/{stage}": self._seconds[stage] for stage in stages}
            logs["samples_per_second"] = self._seconds["#samples"] / spent
            logs["tokens_per_second"] = self._seconds["#tokens"] / spent
            self._seconds.clear()
        super().log(logs, *args, **kwargs)

    # -- values ------------------------------------------------------------------------------------------------------

    def _reduce_moments(self, values: Tensor, mask: Tensor) -> Tensor:
        return self.accelerator.reduce(core.masked_moments(values.detach(), mask), reduction="sum")

    def _log_value(self, name: str, value: float | Tensor) -> None:
        self._metrics[self._mode][name].append(float(value))

    def _log_mean(self, name: str, values: Tensor, mask: Tensor) -> Tensor:
        """Log and return the mean over the positions of all processes where the mask is 1."""
        count, total, _ = self._reduce_moments(values, mask).unbind()
        mean = total / count.clamp(min=1)
        self._log_value(name, mean)
        return mean

    def _log_moments(self, name: str, values: Tensor, mask: Tensor) -> Tensor:
        """Log mean and standard deviation over all processes; returns the moments."""
        moments = self._reduce_moments(values, mask)
        count, total, squares = moments.unbind()
        variance = (squares - total * total / count.clamp(min=1)) / (count - 1).clamp(min=1)
        self._log_value(f"{name}/mean", total / count.clamp(min=1))
        self._log_value(f"{name}/std", variance.clamp(min=0).sqrt())
        return moments

    def _log_rewards(self, rewards: Tensor) -> None:
        """In place of TRL's: the total after clipping and the penalty for not ending."""
        everything = self.accelerator.gather(rewards)
        scored = everything[~everything.isnan()]
        self._metrics[self._mode]["reward"][-1] = scored.mean().item()
        self._metrics[self._mode]["reward_std"][-1] = scored.std().item() if len(scored) > 1 else 0.0

    def _log_kl(self, rollout: dict[str, Tensor]) -> float | None:
        """Log the KL to the reference; returns that of a completion, in nats, the mean over all processes."""
        if "ref_per_token_logps" not in rollout:
            return None
        mask = rollout["completion_mask"]
        kl = core.k1(rollout["old_per_token_logps"], rollout["ref_per_token_logps"])
        count, total, _ = self._reduce_moments(kl, mask).unbind()
        per_sequence = (total / (len(mask) * self.accelerator.num_processes)).item()
        self._metrics[self._mode]["kl"][-1] = (total / count.clamp(min=1)).item()  # TRL's knew nothing of this pass
        self._log_value("kl_per_sequence", per_sequence)
        self._log_value("kl_coef", self.beta)
        return per_sequence

    def _log_advantages(self, advantages: Tensor, mask: Tensor) -> None:
        if advantages.dim() == 1:
            mask, per_sequence = mask.any(dim=1), advantages
        else:
            per_sequence = core.masked_mean(advantages, mask, dim=1)
        self._log_moments("advantages", advantages, mask)
        # TRL has logged its own: huggingface/trl#7298
        table, everything = self._logs["advantages"], self.accelerator.gather(per_sequence).tolist()
        for _ in range(min(len(everything), len(table))):
            table.pop()
        table.extend(everything)
