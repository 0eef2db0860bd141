"""The critic in closed form: what it has seen, what it forgets, and what its values may not depend on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig
from torch import Tensor

from lmrl import core
from lmrl.critics import RewardProgress
from lmrl.critics.least_squares import SHRINKAGES, LeastSquaresCritic
from lmrl.rewards import BLEU
from tests.tiny import tiny_tokenizer
from tests.training import make_trainer

BATCH, TOKENS, FEATURES = 16, 6, 4
HALF = torch.arange(BATCH) // 4 % 2 == 1  # prompts of 4 completions each


def rollout(seed: int, noise: float = 0.1) -> tuple[Tensor, Tensor, Tensor]:
    """Returns features, returns that follow them, and a mask."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(BATCH, TOKENS, FEATURES, generator=generator)
    returns = features @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 3
    returns = returns + noise * torch.randn(BATCH, TOKENS, generator=generator)
    lengths = torch.randint(1, TOKENS + 1, (BATCH, 1), generator=generator)
    return features, returns, (torch.arange(TOKENS) < lengths).long()


def make_critic(forgetting: float = 0.95) -> LeastSquaresCritic:
    """Returns a critic of a single process."""
    return LeastSquaresCritic(forgetting, 1, Accelerator(cpu=True))


def test_values_of_a_second_rollout_are_those_of_the_regression_on_the_first() -> None:
    critic = make_critic()
    first, second = rollout(0), rollout(1)
    critic.update(*first)
    weights = core.fit_ridge(core.regression_moments(*first), 3.0)  # 20 features' worth of the 48 tokens
    torch.testing.assert_close(critic.values(*second, HALF), core.linear_values(second[0], weights))


@pytest.mark.parametrize("earlier", [0, 2])
def test_values_do_not_depend_on_the_returns_that_they_are_values_of(earlier: int) -> None:
    """Of the first rollout they depend on the other half of the prompts, which other actions made."""
    critic = make_critic()
    for seed in range(earlier):
        critic.update(*rollout(seed))
    features, returns, mask = rollout(9)
    before = critic.values(features, returns, mask, HALF)
    changed = returns + 100 * HALF.unsqueeze(1)
    after = critic.values(features, changed, mask, HALF)
    torch.testing.assert_close(after[HALF], before[HALF])


def test_each_part_of_the_first_rollout_has_the_values_of_the_others() -> None:
    features, returns, mask = rollout(0)
    values = make_critic().values(features, returns, mask, HALF)
    for half in (HALF, ~HALF):
        weights = core.fit_ridge(core.regression_moments(features[~half], returns[~half], mask[~half]), 3.0)
        torch.testing.assert_close(values[half], core.linear_values(features[half], weights))
    errors = core.masked_moments(returns - values, mask)
    assert core.explained_variance(errors, core.masked_moments(returns, mask)) > 0.3


def test_a_shrinkage_is_chosen_by_what_it_predicted_of_later_rollouts() -> None:
    exact, noisy = make_critic(), make_critic()
    for seed in range(6):
        exact.update(*rollout(seed, noise=0.01))
        noisy.update(*rollout(seed, noise=100.0))
    moments = core.regression_moments(*rollout(9))
    assert exact.choose(moments) == 0
    assert noisy.choose(moments) == len(SHRINKAGES) - 1


def test_the_first_shrinkage_is_the_larger_the_fewer_tokens_there_are() -> None:
    tokens = torch.ones(1000, 5, 1).cumsum(dim=0)
    moments = core.regression_moments(tokens, tokens[..., 0], torch.ones(1000, 5))
    choose = make_critic().choose
    assert [SHRINKAGES[choose(moments * share)] for share in (1.0, 0.1, 0.01, 0.0)] == [1e-2, 0.1, 1.0, 30.0]


def test_forgetting_weighs_rollouts_by_their_age() -> None:
    critic = make_critic(forgetting=0.5)
    moments = [core.regression_moments(*rollout(seed)) for seed in range(3)]
    for seed in range(3):
        critic.update(*rollout(seed))
    sums = 0.25 * moments[0] + 0.5 * moments[1] + moments[2]
    weights = core.fit_ridge(sums, SHRINKAGES[critic.choose(sums)])
    features, returns, mask = rollout(4)
    torch.testing.assert_close(critic.values(features, returns, mask, HALF), core.linear_values(features, weights))


def test_a_restored_critic_goes_on_bit_for_bit() -> None:
    critic, restored = make_critic(), make_critic()
    for seed in range(3):
        critic.update(*rollout(seed))
    restored.load_state_dict(critic.state_dict())
    critic.update(*rollout(3))
    restored.update(*rollout(3))
    assert torch.equal(critic.values(*rollout(4), HALF), restored.values(*rollout(4), HALF))


def test_a_rollout_in_which_no_token_counts_leaves_the_critic_as_it_is() -> None:
    """As where no reward applied: rewards know nothing there, and have no progress."""
    critic = make_critic()
    reader = RewardProgress([BLEU()], torch.ones(1), None, Accelerator(cpu=True), tiny_tokenizer())
    reader.keep_columns([{"prompt": "p", "references": ["a b"]}] * 2, ["p", "p"])
    states, returns = torch.randn(2, 3, 5), torch.randn(2, 3)
    for counts in (0, 1, 0, 1):
        ids = torch.tensor([tiny_tokenizer()("a b c").input_ids] * 2)
        mask = torch.full_like(ids, counts)
        before = critic.state_dict()
        rest = (reader.numbers(ids, mask), returns[:, 0], returns, mask, 1)
        values, features = critic.value_rollout(states, ids, *rest)
        critic.update(features, returns, mask)
        assert (critic.state_dict() == before) is (counts == 0)
        assert counts or not values.any()


def test_the_words_so_far_are_features_where_rewards_know_nothing_of_the_text() -> None:
    embeddings = torch.tensor([[100.0, 100.0], [1.0, 10.0], [2.0, 20.0]])
    critic = LeastSquaresCritic(0.95, 1, Accelerator(cpu=True), embeddings)
    mask = torch.tensor([[1, 1, 1, 0]])
    ids = torch.tensor([[2, 1, 2, 9]])  # what stands in the padding is not read
    states = torch.arange(4.0).view(1, 4, 1)
    rest = (torch.zeros(1), torch.zeros(1, 4), mask, 1)
    _, features = critic.value_rollout(states, ids, states[..., :0], *rest)
    assert features[0, :3].tolist() == [[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 20.0, 1.0], [2.0, 3.0, 30.0, 2.0]]
    _, features = critic.value_rollout(states, ids, 5 + states, *rest)
    assert features[0, :3].tolist() == [[0.0, 5.0, 0.0, 0.0], [1.0, 6.0, 1.0, 6.0], [2.0, 7.0, 2.0, 14.0]]


def test_embeddings_are_those_of_the_start_and_wide_ones_are_projected() -> None:
    embeddings = torch.randn(9_000, 200)
    kept = embeddings.clone()
    critic = LeastSquaresCritic(0.95, 1, Accelerator(cpu=True), embeddings)
    embeddings.zero_()
    ids = torch.tensor([[8_999, 0]])
    rest = (torch.zeros(1), torch.zeros(1, 2), torch.ones(1, 2).long(), 1)
    _, features = critic.value_rollout(torch.zeros(1, 2, 1), ids, torch.zeros(1, 2, 0), *rest)
    torch.testing.assert_close(features[0, 1, 1:-1], core.narrow(kept[8_999], 128))


def test_the_state_of_another_critic_is_refused() -> None:
    with pytest.raises(ValueError, match="`resume_from_checkpoint` must be of a run with a fitted critic"):
        make_critic().load_state_dict(None)


OWN: dict[str, dict[str, Any]] = {"ppo": {"critic": "least_squares"}, "reinforce": {"baseline": "critic"}}
LORA = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM")


def run(algorithm: str, path: str, folder: Path, **options: Any) -> Any:
    """Returns a trainer of two prompts a rollout, two epochs of each."""
    return make_trainer(algorithm, path, folder, max_steps=6, num_iterations=2, **OWN[algorithm], **options)


def differing(one: Any, other: Any) -> list[str]:
    """Returns the weights that differ between two trainers, in any bit."""
    weights = dict(other.model.named_parameters())
    return [name for name, weight in one.model.named_parameters() if not torch.equal(weight, weights[name])]


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("ppo", {}),
        ("reinforce", {}),
        ("ppo", {"peft_config": LORA, "bf16": True, "gradient_checkpointing": True}),
    ],
)
def test_a_resumed_run_has_the_critic_and_the_weights_of_one_that_was_not_stopped(
    algorithm: str, options: dict[str, Any], gpt2_path: str, tmp_path: Path
) -> None:
    """Saved in the middle of a rollout's two epochs, after a rollout that was fitted."""
    straight = run(algorithm, gpt2_path, tmp_path, save_strategy="steps", save_steps=3, **options)
    straight.train()
    resumed = run(algorithm, gpt2_path, tmp_path, save_strategy="steps", save_steps=3, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.fitted.state_dict() == straight.fitted.state_dict()
    assert differing(straight, resumed) == []


def test_gradient_checkpointing_changes_no_bit_of_the_critic_and_of_the_weights(
    gpt2_path: str, tmp_path: Path
) -> None:
    plain = run("ppo", gpt2_path, tmp_path, bf16=True)
    plain.train()
    again = run("ppo", gpt2_path, tmp_path, bf16=True, gradient_checkpointing=True)
    again.train()
    assert again.fitted.state_dict() == plain.fitted.state_dict()
    assert differing(plain, again) == []


@pytest.mark.parametrize("case", ["ppo", "reinforce", "ppo with LoRA"])
def test_without_a_learning_rate_nothing_moves_in_bfloat16_though_the_critic_learns(
    case: str, gpt2_path: str, tmp_path: Path
) -> None:
    """The policy is its reference, and the one that sampled, in every bit: the KL is 0, and the ratio 1."""
    options = {"peft_config": LORA} if "LoRA" in case else {}
    trainer = run(case.split()[0], gpt2_path, tmp_path, bf16=True, learning_rate=0.0, **options)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert [name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])] == []
    logs = trainer.state.log_history[:-1]
    exact = ("kl", "kl_per_sequence", "clip_ratio/region_mean", "policy/approx_kl")
    found = [log[name] for log in logs for name in exact if name in log]
    assert len(found) >= 12 and set(found) == {0.0}
    assert len(logs) == 6 and all(log["grad_norm"] > 0 for log in logs)
    assert trainer.fitted.state_dict() is not None
