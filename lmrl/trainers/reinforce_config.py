"""Configuration of REINFORCE, and of the recipes that differ from it by settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from lmrl import core
from lmrl.settings import check_unread
from lmrl.utils import check_at_least, check_in, option, refuse

from .configs import PolicyGradientConfig

if TYPE_CHECKING:
    Baseline = str | Callable[[Tensor, int], Tensor]
else:
    Baseline = str  # the parser of command lines knows no union: there a baseline is a name


@dataclass
class ReinforceConfig(PolicyGradientConfig):
    """
    Configuration of [`ReinforceTrainer`].

    `baseline` is a name or, in Python, a function `baseline(rewards, num_generations)`. It gets the rewards of a
    rollout of all processes, `(N,)`, minus their KL penalty unless `scale_rewards` keeps that apart: completions of a
    prompt are side by side, and NaN is where no reward applied. It returns what to subtract, `(N,)`. With `shaping` it
    is called for each place of the completions, with the rewards still to come there.
    """

    num_generations: int | None = option(
        4, "Completions per prompt. 1 is allowed with every baseline but leave_one_out and group_mean."
    )
    baseline: Baseline = option(
        "leave_one_out",
        "What is subtracted from the reward. One of none, batch_mean, leave_one_out, group_mean, shrinkage, which is "
        "between leave_one_out and the mean of the other prompts, moving_average, critic, a regression on the prompt "
        "fitted to earlier rollouts, and greedy, which decodes each prompt again.",
    )
    baseline_decay: float = option(0.9, "Share of the past in the moving average, in [0, 1).")
    critic_forgetting: float = option(
        0.95, "Weight of earlier rollouts in the baseline critic. A factor in (0, 1], for each rollout since."
    )
    loss_level: Literal["sequence", "token"] = option(
        "sequence",
        "What the ratio is clipped of. sequence: a completion, as RLOO does. token: each token, as PPO does, with the "
        "advantage of its completion, less the KL penalty from the token on.",
    )
    loss_type: Literal["dapo", "grpo", "dr_grpo"] = option(
        "dapo",
        "Average of the losses of tokens. dapo: over all tokens of the rollout. grpo: over the tokens of each "
        "completion, then over completions. dr_grpo: their sum by max_completion_length. Read with loss_level=token.",
    )
    shaping: Literal["progress"] | None = option(
        None,
        "Rewards of tokens. progress: what each adds to the reward as if the text ended there, so that the advantage "
        "of a token is of what is still to come. Needs loss_level=token.",
    )
    scale_rewards: Literal["none", "group", "batch"] = option(
        "none",
        "What advantages are divided by. group: the standard deviation of the rewards of the prompt's completions, as "
        "GRPO does. batch: that of the rewards of the rollout. normalize_advantages instead whitens the advantages.",
    )
    drop_equal_groups: bool = option(
        False,
        "Leave prompts out whose completions all got the same reward. The loss is the mean over the others. Of the "
        "reward before its KL penalty.",
    )
    equal_groups_tolerance: float = option(
        1e-6, "How far rewards of a prompt may differ and count as the same. Read with drop_equal_groups."
    )
    resample_equal_groups: int = option(
        0,
        "Times to sample such prompts anew before they are left out. Read with drop_equal_groups, for a baseline that "
        "is of the prompt's own completions.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, equal_groups_tolerance=self.equal_groups_tolerance)
        check_at_least(0, resample_equal_groups=self.resample_equal_groups)
        if not self.drop_equal_groups:
            check_unread(self, ["equal_groups_tolerance", "resample_equal_groups"], "drop_equal_groups")
        if self.loss_level != "token":
            check_unread(self, ["loss_type"], "loss_level='token'")
        if not callable(self.baseline):
            check_in((*core.BASELINES, "critic"), baseline=self.baseline)
        if self.baseline != "moving_average":
            check_unread(self, ["baseline_decay"], "baseline='moving_average'")
        if self.baseline != "critic":
            check_unread(self, ["critic_forgetting"], "baseline='critic'")
        self._check_settings_together()

    def _check_settings_together(self) -> None:
        forgetting = self.critic_forgetting
        is_alone = self.num_generations == 1
        resamples = self.resample_equal_groups
        of_group = ("leave_one_out", "group_mean")
        scales = self.scale_rewards != "none"
        of_tokens = not self.vllm_importance_sampling_mode.startswith("sequence")
        refuse(
            {
                f"`critic_forgetting` must be in (0, 1], got {forgetting}.": not 0 < forgetting <= 1,
                f"`num_generations` must be at least 2 with baseline={self.baseline!r}, got 1. That compares texts of "
                "one prompt: raise it, or take baseline='shrinkage', which compares prompts too, or "
                "'moving_average'.": is_alone and self.baseline in of_group,
                "`num_generations` must be at least 2 with scale_rewards='group', got 1. One reward has no standard "
                "deviation: raise it, or take scale_rewards='batch'.": is_alone and self.scale_rewards == "group",
                "`drop_equal_groups` must be False with num_generations=1, got True. A single completion has none to "
                "differ from: raise it.": is_alone and self.drop_equal_groups,
                f"`drop_equal_groups` must be False with shaping={self.shaping!r}, got True. Dense rewards teach in "
                "texts of equal rewards too, and without these the expected gradient is another one: leave one of "
                "them out.": self.drop_equal_groups and self.shaping is not None,
                f"`scale_rewards` must not be 'group' with baseline={self.baseline!r}, got 'group'. Equal rewards may "
                "be above or below that baseline, and have no scale that would fit: take "
                "baseline='group_mean' or 'leave_one_out', or scale_rewards='batch'.": self.scale_rewards == "group"
                and not (callable(self.baseline) or self.baseline in of_group),
                f"`resample_equal_groups` must be 0 with baseline={self.baseline!r}, got {resamples}. Equal rewards "
                "may be above or below that baseline and teach: take baseline='leave_one_out' or "
                "'group_mean'.": resamples and not (callable(self.baseline) or self.baseline in of_group),
                "`kl_estimator` must be 'k1' with loss_level='sequence', got 'exact'. The KL of a state is the same "
                "whatever token follows, and one advantage for a completion cannot part it by the tokens that have "
                "caused it: set loss_level='token'.": self.kl_estimator == "exact" and self.loss_level == "sequence",
                f"`shaping` must be None with loss_level='sequence', got {self.shaping!r}. One advantage for a "
                "completion has the sum of its dense rewards alone, which is its reward: set "
                "loss_level='token'.": self.shaping is not None and self.loss_level == "sequence",
                f"`scale_rewards` must be 'none' with normalize_advantages=True, got {self.scale_rewards!r}. Each "
                "divides the advantages by a standard deviation: choose one.": scales and self.normalize_advantages,
                "`kl_scope` must be 'completion' with loss_level='sequence', got 'token'. All tokens of a completion "
                "have one advantage there: set loss_level='token'.": self.kl_scope == "token"
                and self.loss_level != "token",
                "`baseline` must not be 'greedy' with use_vllm=True, got 'greedy'. Use "
                "baseline='leave_one_out'.": self.baseline == "greedy" and self.use_vllm,
                "`vllm_importance_sampling_mode` must be 'sequence_truncate' or 'sequence_mask' with loss_level="
                f"'sequence', got {self.vllm_importance_sampling_mode!r}. Its loss weighs completions, not "
                "tokens.": of_tokens and self.loss_level == "sequence",
                f"`baseline_decay` must be in [0, 1), got {self.baseline_decay}.": not 0 <= self.baseline_decay < 1,
            }
        )
