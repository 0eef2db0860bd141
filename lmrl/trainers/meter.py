"""Figures of training: means and moments over all processes, and clocks."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lmrl import core
from lmrl.display.curves import STAGES
from lmrl.distributed import local_rows

from .rollout import Rollout

THROUGHPUT = ("samples_per_second", "tokens_per_second")


class Meter:
    """
    Computes what a trainer logs, from the same tensors that are trained on, which it never changes. Names are TRL's
    where TRL has one; docs/trainers.md lists them. `values` is TRL's store: for `"train"` and `"eval"`, chosen by the
    mode of the policy, the values of each name since the last log. TRL logs their means.
    """

    def __init__(self, accelerator: Accelerator, values: dict[str, dict[str, list[float]]], policy: nn.Module) -> None:
        self.accelerator = accelerator
        self.values = values
        self.policy = policy
        self.completions = 0
        self.tokens = 0
        self.evaluated: list[tuple[int, int]] = []  # of each batch: completions, those with a reward
        self.sums: dict[str, dict[str, list[float]]] = {"train": {}, "eval": {}}  # totals and counts of ratios
        # Of the newest rollout: columns with a value per completion of all processes.
        self.newest: dict[str, dict[str, Any]] = {"train": {}, "eval": {}}

    @property
    def mode(self) -> str:
        """`train` or `eval`."""
        return "train" if self.policy.training else "eval"

    def log(self, name: str, value: float | Tensor) -> None:
        """Adds a value that is the same on all processes; what is logged is the mean of those since the last log."""
        self.values[self.mode][name].append(float(value))

    def replace(self, name: str, value: float) -> None:
        """Replaces the newest value that TRL has added under this name by that which lmrl computes."""
        self.values[self.mode][name][-1] = value

    @contextmanager
    def sampled_evaluation(self, data_set: str) -> Iterator[None]:
        """An evaluation in it takes no draws of training's; its values get the data set's name as a prefix."""
        self.evaluated.clear()
        values = self.values["eval"]
        values.clear()  # of a prediction, which logs none, or of an evaluation that was interrupted
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
        # TRL averages over batches, of which the last may have fewer completions: these are to count alike.
        for name, of_batches in values.items():
            if len(of_batches) == len(self.evaluated) > 1:
                means = torch.tensor(of_batches, dtype=torch.float64)
                counts = torch.tensor(self.evaluated)[:, int(name.startswith("reward"))] * ~means.isnan()
                of_batches[:] = [((means.nan_to_num() * counts).sum() / counts.sum()).item()]
        for name in list(values) if data_set else ():
            values[f"{data_set}_{name}"] = values.pop(name)

    def moments(self, values: Tensor, mask: Tensor) -> Tensor:
        """Returns count, sum and sum of squares, (3,), over the positions of all processes where the mask is 1."""
        return self.accelerator.reduce(core.masked_moments(values.detach(), mask), reduction="sum")

    def log_ratio(self, name: str, total: float, count: float) -> None:
        """Logs total / count, both summed since the last log, which does not depend on how a rollout is cut."""
        sums = self.sums[self.mode]
        if name not in self.values[self.mode] or name not in sums:  # it has been logged: begin anew
            sums[name] = [0.0, 0.0]
        sums[name][0] += total
        sums[name][1] += count
        self.values[self.mode][name] = [sums[name][0] / max(sums[name][1], 1)]

    def log_mean(self, name: str, values: Tensor, mask: Tensor) -> float:
        """Logs and returns the mean over the positions of all processes where the mask is 1."""
        count, total, _ = self.moments(values, mask).tolist()
        self.log_ratio(name, total, count)
        return float(total / max(count, 1))

    def log_moments(self, name: str, values: Tensor, mask: Tensor) -> None:
        """Logs `<name>/mean` and `<name>/std` over all processes."""
        count, total, squares = self.moments(values, mask).unbind()
        variance = (squares - total * total / count.clamp(min=1)) / (count - 1).clamp(min=1)
        self.log(f"{name}/mean", total / count.clamp(min=1))
        self.log(f"{name}/std", variance.clamp(min=0).sqrt())

    def log_explained(self, values: Tensor, returns: Tensor, mask: Tensor, totals: Tensor, group: int) -> None:
        """
        Logs the share of the returns' variance that values explain, both (B, T), or (B, 1) per completion: over all
        positions where the mask is 1, and by quarter of the completions. If a prompt has `group` > 1 completions, also
        the share that the mean of the others explains, from the rewards `totals`, (N,), of all processes.
        """
        parts = {"value/explained_variance": (values, mask.bool())}
        if mask.shape[1] > 1:
            quarters = core.quarters(mask)
            parts |= {f"value/explained_variance/quarter_{n + 1}": (values, quarters == n) for n in range(4)}
        if group > 1:
            others = local_rows(core.leave_one_out(totals, group)).unsqueeze(1).expand_as(mask)
            parts["value/explained_variance_leave_one_out"] = (others, mask.bool() & ~others.isnan())
        pairs = [
            torch.stack([core.masked_moments(returns - explained, kept), core.masked_moments(returns, kept)])
            for explained, kept in parts.values()
        ]
        moments = self.accelerator.reduce(torch.stack(pairs).detach(), reduction="sum")
        explained = torch.stack([core.explained_variance(of_errors, of_returns) for of_errors, of_returns in moments])
        for name, share in zip(parts, explained.tolist(), strict=True):
            if not math.isnan(share):  # as where all returns are equal
                self.log(name, share)

    def log_means(self, values: Mapping[str, Tensor], mask: Tensor) -> None:
        """Logs the means of several values over the positions of all processes where the mask is 1."""
        sums = [core.masked_sum(of_name.detach().float(), mask) for of_name in values.values()]
        *totals, count = self.accelerator.reduce(torch.stack([*sums, mask.sum().float()]), reduction="sum").tolist()
        for name, total in zip(values, totals, strict=True):
            self.log_ratio(name, total, count)

    def log_clipping(self, low: Tensor, high: Tensor, mask: Tensor) -> None:
        """Logs the shares of elements, (B,) or (B, T), clipped below and above, and the extremes of completions."""
        shares = {"low_mean": low, "high_mean": high, "region_mean": low | high}
        self.log_means({f"clip_ratio/{name}": stopped for name, stopped in shares.items()}, mask)
        counts = mask.bool()
        if low.dim() == 2:
            low, high = (core.masked_mean(stopped.float(), mask, dim=1) for stopped in (low, high))
            counts = mask.any(dim=1)
        self.log_extreme("clip_ratio/low_min", min, torch.where(counts, low.float(), torch.nan))
        self.log_extreme("clip_ratio/high_max", max, torch.where(counts, high.float(), torch.nan))

    def log_extreme(self, name: str, extreme: Callable[[list[float]], float], values: Tensor) -> None:
        """Logs the `extreme`, `min` or `max`, of values (B,) over all processes since the last log, without NaN."""
        known = self.values[self.mode][name]
        known += [value for value in self.accelerator.gather(values).tolist() if not math.isnan(value)]
        known[:] = [extreme(known)] if known else []

    def log_importance(self, difference: Tensor, ratio: Tensor, is_outside: Tensor, mask: Tensor) -> None:
        """Logs how far the sampler's log-probabilities are off, (B, T), and the correcting ratio, (B,) or (B, T)."""
        of_ratio = mask if ratio.dim() == 2 else mask.any(dim=1)
        largest = torch.where(of_ratio.bool(), ratio, 0.0).view(len(mask), -1).amax(dim=1)
        name = "sampling/importance_sampling_ratio"
        self.log_mean("sampling/sampling_logp_difference/mean", difference, mask)
        self.log_extreme("sampling/sampling_logp_difference/max", max, (difference * mask).amax(dim=1))
        self.log_mean(f"{name}/mean", ratio, of_ratio)
        self.log_extreme(f"{name}/max", max, largest)
        self.log_mean(f"{name}/clipped", is_outside.float(), of_ratio)

    def log_ended(self, sampled: Any, eos_token_ids: list[int]) -> Any:
        """Logs lengths of ended completions; TRL also counts those cut behind a padding token. Returns `sampled`."""
        lengths = [len(row) if row[-1] in eos_token_ids else math.nan for row in sampled[1]]
        local = torch.tensor(lengths, dtype=torch.float32, device=self.accelerator.device)
        of_all = self.accelerator.gather(local).cpu()
        of_ended = of_all[~of_all.isnan()]
        self.replace("completions/clipped_ratio", 1 - len(of_ended) / len(of_all))
        of_ended = of_ended if len(of_ended) else torch.zeros(1)
        for name in ("mean", "min", "max"):
            self.replace(f"completions/{name}_terminated_length", getattr(of_ended, name)().item())
        return sampled

    def log_rewards(self, rewards: Tensor, lengths: Tensor, has_ended: Tensor, group: int) -> None:
        """Logs the rewards (B,) that are trained on, `group` per prompt, and counts completions and their tokens."""
        gathered = self.accelerator.gather(rewards).cpu()  # a GPU is waited for once, not for each number
        lengths, finished = self.accelerator.gather(torch.stack([lengths, has_ended], dim=1)).cpu().unbind(dim=1)
        ends = {"length": lengths.tolist(), "finished": finished.bool().tolist()}
        self.newest[self.mode].clear()
        self.newest[self.mode].update(reward=gathered.tolist(), **ends)
        scored = gathered[~gathered.isnan()]
        self.replace("reward", scored.mean().item())
        self.replace("reward_std", scored.std().item() if len(scored) > 1 else 0.0)
        self.replace("frac_reward_zero_std", core.equal_groups(gathered, group).float().mean().item())
        if self.policy.training:
            self.completions += len(lengths)
            self.tokens += int(lengths.sum())
        else:
            self.evaluated.append((len(gathered), len(scored)))

    def log_kl(self, rollout: Rollout, coefficient: float) -> float:
        """Logs the KL and its coefficient; returns the mean KL per completion, in nats, 0 if there is none."""
        if rollout.ref_log_probs is None:
            return 0.0
        mask = rollout.completion_mask
        kl = core.k1(rollout.old_log_probs, rollout.ref_log_probs) if rollout.exact_kl is None else rollout.exact_kl
        sums = torch.stack([core.masked_sum(kl, mask, dim=1), mask.sum(dim=1)], dim=1)
        kls, lengths = self.accelerator.gather(sums).cpu().unbind(dim=1)
        self.newest[self.mode]["kl"] = kls.tolist()
        per_sequence = (kls.sum() / (lengths > 0).sum().clamp(min=1)).item()
        self.replace("kl", (kls.sum() / lengths.sum().clamp(min=1)).item())
        self.log("kl_per_sequence", per_sequence)
        self.log("kl_coef", coefficient)
        return per_sequence

    def log_advantages(self, advantages: Tensor, mask: Tensor, table: Any) -> None:
        """
        Logs the advantages, (B,) or (B, T). In TRL's table they replace TRL's own, which are not trained on
        (huggingface/trl#7298), as the newest rows of `advantages`: a mean for each completion of all processes.
        """
        of_tokens = advantages.dim() == 2
        self.log_moments("advantages", advantages, mask if of_tokens else mask.any(dim=1))
        per_sequence = core.masked_mean(advantages, mask, dim=1) if of_tokens else advantages
        values: list[float] = self.accelerator.gather(per_sequence).tolist()
        texts = {name: table[name] for name in ("prompt", "completion", "rewards", "extra")}
        self.newest[self.mode].update(texts, advantage=values)
        newest = table["advantages"]
        for _ in range(min(len(values), len(newest))):
            newest.pop()
        newest.extend(values)

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """
        Logs the seconds spent in the context as those of a stage, without those that clocks inside it count for
        another, and the throughput. All of it is summed up since the last log of training; an evaluation is not timed.
        """
        if not self.policy.training:
            yield
            return
        train = self.values["train"]
        if THROUGHPUT[0] not in train:  # it has been logged: count anew
            self.completions = self.tokens = 0
        seconds = [train.setdefault(f"time/{name}", [0.0]) for name in STAGES]
        others = sum(total for (total,) in seconds)
        started = time.perf_counter()
        yield
        getattr(torch, self.accelerator.device.type).synchronize()  # waits for what a GPU still computes
        others = sum(total for (total,) in seconds) - others
        train[f"time/{stage}"][0] += time.perf_counter() - started - others
        spent = sum(total for (total,) in seconds)
        train[THROUGHPUT[0]] = [self.completions / spent]
        train[THROUGHPUT[1]] = [self.tokens / spent]

    def state_dict(self) -> dict[str, Any]:
        """Returns the values of training that are not logged yet, without times and throughput."""
        times = (*(f"time/{stage}" for stage in STAGES), *THROUGHPUT)
        kept = {name: [float(value) for value in values] for name, values in self.values["train"].items()}
        kept = {name: [v for v in kept[name] if not math.isnan(v)] for name in kept if name not in times}
        return {**kept, "sums": {name: sums for name, sums in self.sums["train"].items() if name in kept}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads what [`~Meter.state_dict`] returned."""
        values = dict(state)
        self.sums["train"] = values.pop("sums", {})
        self.values["train"].update(values)
