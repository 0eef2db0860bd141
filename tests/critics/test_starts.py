"""What helps a critic that is trained: a start from a model or an earlier critic, a warm-up, more epochs on states."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import tiny_gpt2, tiny_tokenizer
from training import make_trainer, one_rollout
from transformers import AutoModelForSequenceClassification

from lmrl.critics import CRITIC_FILE, attach_critic, get_critic, make_critic, train_on_states
from lmrl.models import add_scoring_forward, load_model

LORA = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM")
ALL_WEIGHTS = {"shared": {}, "separate": {}, "adapter": {"peft_config": LORA}}


def reward_model(folder: Path, start: str, adapter: bool = False, labels: int = 1) -> Any:
    """Returns a reward model that differs from the model it starts from, saved into a folder."""
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(start, num_labels=labels)
    torch.nn.init.normal_(model.score.weight)
    model.config.pad_token_id = 0
    if adapter:
        options = {"r": 4, "init_lora_weights": False, "target_modules": ["q_proj"]}
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", **options))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model.eval()


def test_a_critic_starts_at_zero_where_no_reward_applied_to_the_first_rollout(gpt2_path: str, tmp_path: Path) -> None:
    rollouts = []

    def none_at_first(completions: list[str], **_: Any) -> list[float | None]:
        rollouts.append(completions)
        return [None if len(rollouts) == 1 else float(len(text)) for text in completions]

    options = {"critic": "shared", "startup_checks": False, "num_iterations": 1, "max_steps": 2}
    trainer = make_trainer("ppo", gpt2_path, tmp_path, none_at_first, **options)
    trainer.train()
    assert get_critic(trainer.model).start.item() == 0.0
    first, second = (log["value/mean"] for log in trainer.state.log_history[:2])
    assert first == 0.0
    assert math.isfinite(second)


@pytest.mark.parametrize("adapter", [False, True])
def test_the_first_values_are_the_scores_of_the_reward_model_that_a_critic_starts_from(
    adapter: bool, llama_path: str, tmp_path: Path
) -> None:
    """Of each text as it is before the token, and the mean reward of the first rollout is not added to them."""
    model = reward_model(tmp_path / "scorer", llama_path, adapter)
    options = {"critic": "separate", "critic_model_name_or_path": str(tmp_path / "scorer"), "num_iterations": 2}
    trainer = make_trainer("ppo", llama_path, tmp_path / "out", max_steps=2, **options)
    rollout = one_rollout(trainer)
    prompt_width = rollout.prompt_ids.shape[1]
    scored = 0
    for row, mask in enumerate(rollout.attention_mask.bool()):
        for place in rollout.completion_mask[row].nonzero().flatten().tolist():
            before = rollout.input_ids[row, : prompt_width + place][mask[: prompt_width + place]]
            score = model(before.unsqueeze(0)).logits[0, 0]
            torch.testing.assert_close(rollout.old_values[row, place], score, atol=1e-5, rtol=1e-5)
            scored += 1
    assert scored > 20
    trainer.train()
    trainer.save_model()
    weight = get_critic(trainer.model).score.weight
    assert not torch.equal(weight, torch.as_tensor(model.get_parameter("score.weight") if not adapter else 0.0))
    again = load_model(llama_path)
    critic = make_critic(again, "separate", str(tmp_path / "out"))
    assert torch.equal(critic.score.weight, weight)


def test_a_classifier_and_a_language_model_give_a_critic_their_backbone_alone(gpt2_path: str, tmp_path: Path) -> None:
    reward_model(tmp_path / "classifier", gpt2_path, labels=2)
    for name in (str(tmp_path / "classifier"), gpt2_path):
        critic = make_critic(load_model(gpt2_path), "separate", name)
        assert critic.score is None and not critic.has_start


@pytest.mark.parametrize("critic", ALL_WEIGHTS)
def test_the_first_values_are_those_of_the_earlier_critic_that_one_starts_from(
    critic: str, gpt2_path: str, tmp_path: Path
) -> None:
    options = {"critic": critic, "num_iterations": 2, "critic_learning_rate": 1e-2}
    earlier = make_trainer("ppo", gpt2_path, tmp_path / "earlier", max_steps=2, **ALL_WEIGHTS[critic], **options)
    earlier.train()
    earlier.save_model()
    start = {"critic_model_name_or_path": str(tmp_path / "earlier")}
    later = make_trainer("ppo", str(tmp_path / "earlier"), tmp_path / "later", max_steps=2, **options, **start)
    rollout = one_rollout(later)
    mask = rollout.completion_mask
    inputs = {"input_ids": rollout.input_ids, "attention_mask": rollout.attention_mask}
    earlier.model.eval()
    with torch.no_grad():
        values = earlier.model(**inputs, completion_length=mask.shape[1], with_values=True).state_values
    torch.testing.assert_close(rollout.old_values, values, atol=1e-6, rtol=0)
    assert values[mask.bool()].std() > 1e-4
    weights = get_critic(later.model).state_dict()
    expected = get_critic(earlier.model).state_dict()
    assert weights.keys() == expected.keys()
    assert [name for name, weight in weights.items() if not torch.equal(weight, expected[name])] == []


def test_a_start_that_is_no_critic_of_its_kind_is_refused(gpt2_path: str, tmp_path: Path) -> None:
    def start(critic: str, name: str) -> None:
        make_trainer("ppo", gpt2_path, tmp_path / "out", critic=critic, critic_model_name_or_path=name)

    match = r"`critic_model_name_or_path` must be the folder of a run with critic='shared', got .* without critic/"
    with pytest.raises(ValueError, match=match):
        start("shared", gpt2_path)
    other = make_trainer("ppo", tiny_gpt2(tmp_path / "wide", n_embd=64), tmp_path / "run", critic="shared")
    other.save_model()
    with pytest.raises(
        ValueError, match=r"critic\.safetensors must have the shape of the one configured, got another"
    ):
        start("shared", str(tmp_path / "run"))
    with pytest.raises(
        ValueError, match=r"critic\.safetensors must have the shape of the one configured, got another"
    ):
        start("separate", str(tmp_path / "run"))
    assert (tmp_path / "run" / CRITIC_FILE).is_file()


@pytest.mark.parametrize(
    ("critic", "options"), [("shared", {"entropy_coef": 0.1}), ("adapter", {"peft_config": LORA, "num_iterations": 1})]
)
def test_in_the_warm_up_no_bit_of_the_policy_changes_and_the_critic_learns(
    critic: str, options: dict[str, Any], gpt2_path: str, tmp_path: Path
) -> None:
    """Two steps of three: the third moves the policy."""
    given = {"num_iterations": 2, **options, "critic": critic, "critic_warmup_steps": 2, "critic_learning_rate": 1e-2}
    for steps in (2, 3):
        trainer = make_trainer("ppo", gpt2_path, tmp_path, max_steps=steps, **given)
        before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        trainer.train()
        named = trainer.model.named_parameters()
        moved = {"critic." in name for name, weight in named if not torch.equal(weight, before[name])}
        assert moved == ({True} if steps == 2 else {True, False})
        kls = [log["kl"] for log in trainer.state.log_history if "kl" in log]
        assert kls[0] == pytest.approx(0.0, abs=1e-6)


def test_more_epochs_lower_the_error_of_the_values_and_move_nothing_else(gpt2_path: str) -> None:
    """A first epoch moves each weight by the learning rate against its gradient, as Adam's first step does."""
    from accelerate import Accelerator

    model = load_model(gpt2_path).eval()
    critic = attach_critic(model)
    add_scoring_forward(model)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4, 5, 32, generator=generator)
    returns = 0.1 * states[..., 0] + 0.05
    returns[3] = torch.nan
    mask = torch.tensor([[1] * 5, [1] * 3 + [0] * 2, [1] * 5, [0] * 5])
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    def error() -> float:
        return (critic.head(states) - returns)[mask.bool()].square().mean().item()

    old_values = critic.head(states).detach()
    errors = [error()]
    accelerator = Accelerator(cpu=True)
    for epochs in (1, 20):
        train_on_states(critic, states, old_values, returns, mask, accelerator, epochs, 1e-3, 0.2)
        errors.append(error())
        if epochs == 1:
            mean_error = (old_values - returns)[mask.bool()].mean()
            torch.testing.assert_close(critic.value.bias, -1e-3 * mean_error.sign().unsqueeze(0), atol=1e-7, rtol=0)
            assert torch.equal(critic.hidden[1].weight, before["critic.hidden.1.weight"])  # the last layer was 0
    assert errors[2] < errors[1] < errors[0]
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if name.startswith("critic.")}
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("bf16", [False, True])
def test_more_epochs_change_the_critic_and_not_the_values_of_the_rollout_that_it_learns(
    bf16: bool, gpt2_path: str, tmp_path: Path
) -> None:
    """The first rollout has the same advantages, and a run that goes on from a checkpoint ends with the same bits."""

    def make(epochs: int) -> Any:
        saved = {"max_steps": 3, "save_strategy": "steps", "save_steps": 2}
        options = {"critic": "shared", "num_iterations": 2, "bf16": bf16, "critic_extra_epochs": epochs}
        return make_trainer("ppo", gpt2_path, tmp_path, **options, **saved)

    plain = make(0)
    straight = make(3)
    rollouts = []
    for trainer in (plain, straight):
        torch.manual_seed(3)
        rollouts.append(one_rollout(trainer))
    assert torch.equal(rollouts[0].advantages, rollouts[1].advantages)
    assert torch.equal(rollouts[0].old_values, rollouts[1].old_values)
    assert get_critic(plain.model).value.bias.item() == 0.0 != get_critic(straight.model).value.bias.item()
    straight.train()
    resumed = make(3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    pairs = zip(straight.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
