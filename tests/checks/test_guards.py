"""A policy that gives NaN stops the run in that step, on all processes, and is neither updated nor saved."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_tokenizer
from training import ALGORITHMS, make_trainer
from transformers import AutoModelForCausalLM, AutoTokenizer, PhiConfig, PhiForCausalLM, TrainerCallback

from lmrl.checks import DivergenceError
from lmrl.checks.startup import _check_same

SAVING = {"max_steps": 6, "save_strategy": "steps", "save_steps": 1, "num_iterations": 1}


class At(TrainerCallback):
    """Does something to the model or the optimiser at the beginning of a step, the first of which is 1."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called before the batches of the step are made."""
        if state.global_step + 1 == self.step:
            self.act(**kwargs)


@torch.no_grad()
def poison(model: Any, value: float = math.nan, name: str = "wte", **_: Any) -> None:
    """Puts a value into one weight of the first parameter with that name."""
    next(weight for key, weight in model.named_parameters() if name in key).view(-1)[5] = value


def poison_gradient(model: Any, value: float = math.nan, **_: Any) -> None:
    """Makes one gradient what it is in an overflow."""
    weight = next(weight for name, weight in model.named_parameters() if "c_fc" in name)
    weight.register_hook(lambda gradient: gradient * value)


def run_away(optimizer: Any, **_: Any) -> None:
    """Sets an absurd learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = 1e30


def diverges(trainer: Any) -> str:
    """Trains, and returns the sentence that it stops with."""
    with pytest.raises(DivergenceError) as caught:
        trainer.train()
    return str(caught.value)


def check_complete(checkpoint: Path, step: int) -> None:
    """The checkpoint has all of that step, and its policy is finite and generates."""
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == step
    assert {"optimizer.pt", "scheduler.pt", "lmrl_state.json"} <= {path.name for path in checkpoint.iterdir()}
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    assert all(weight.isfinite().all() for weight in model.parameters())
    inputs = tokenizer("a b", return_tensors="pt")
    assert model(**inputs).logits.isfinite().all()
    assert model.generate(**inputs, do_sample=True, max_new_tokens=3).shape[1] > 2


@pytest.mark.parametrize("beta", [0.05, 0.0])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_weights_that_turn_nan_stop_the_step(algorithm: str, beta: float, gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, beta=beta, callbacks=[At(3, poison)], **SAVING)
    sentence = diverges(trainer)
    what = "the KL to the reference" if beta else "the entropy"
    assert sentence.startswith(f"Training was stopped in step 3: {what} is nan")
    newest = f"The last checkpoint is {tmp_path}/checkpoint-2; if it was saved from these very weights, go back to"
    assert f"{newest} {tmp_path}/checkpoint-1." in sentence and "Lower `learning_rate` (it is 0.001)" in sentence
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    check_complete(tmp_path / "checkpoint-2", step=2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gradients_that_are_not_finite_are_not_used(
    algorithm: str, value: float, gpt2_path: str, tmp_path: Path
) -> None:
    act = At(3, lambda **kwargs: poison_gradient(value=value, **kwargs))
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, callbacks=[act], **SAVING)
    sentence = diverges(trainer)
    assert sentence.startswith("Training was stopped in step 3: the norm of the gradients is ")
    assert f"the update with them was not made. The last checkpoint is {tmp_path}/checkpoint-2. Lower" in sentence
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2").state_dict()
    assert all(torch.equal(trainer.model.state_dict()[name], weight) for name, weight in saved.items())


@pytest.mark.parametrize("clip", [1.0, 0.0])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_absurd_learning_rate_is_named(algorithm: str, clip: float, gpt2_path: str, tmp_path: Path) -> None:
    options = {**SAVING, "save_steps": 2, "max_grad_norm": clip, "callbacks": [At(3, run_away)]}
    sentence = diverges(make_trainer(algorithm, gpt2_path, tmp_path, **options))
    assert "Training was stopped in step 4: " in sentence
    assert f"The last checkpoint is {tmp_path}/checkpoint-2. " in sentence
    check_complete(tmp_path / "checkpoint-2", step=2)


def test_weights_that_are_not_finite_are_not_saved(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("ppo", gpt2_path, tmp_path)
    trainer.save_model()
    before = (tmp_path / "model.safetensors").read_bytes()
    poison(trainer.model, math.inf)
    for save in (trainer.save_model, lambda: trainer._save_checkpoint(trainer.model, None)):
        with pytest.raises(DivergenceError, match="weights of the policy are NaN or infinite, and were not saved"):
            save()
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_bias_of_minus_infinity_suppresses_a_token_in_training_and_is_saved(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = PhiForCausalLM(PhiConfig(vocab_size=64, max_position_embeddings=64, eos_token_id=1, **sizes))
    model.lm_head.bias.data[[8, 9]] = -math.inf
    options = {"processing_class": tiny_tokenizer(), "kl_estimator": "exact", "entropy_coef": 0.1}
    trainer = make_trainer("ppo", model, tmp_path, num_iterations=2, **options)
    trainer.train()
    assert trainer.state.log_history[0]["kl_per_sequence"] == 0.0
    trainer.save_model()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path).lm_head.bias
    assert saved.isneginf().nonzero().flatten().tolist() == [8, 9]
    for value in (math.nan, math.inf):
        trainer.model.lm_head.bias.data[5] = value
        with pytest.raises(DivergenceError, match="weights of the policy are NaN or infinite"):
            trainer.save_model()
    trainer.model.lm_head.bias.data[5] = 0.0
    trainer.model.model.final_layernorm.bias.data[0] = -math.inf  # of no token
    with pytest.raises(DivergenceError, match="weights of the policy are NaN or infinite"):
        trainer.save_model()


def test_without_a_checkpoint_the_message_has_none(gpt2_path: str, tmp_path: Path) -> None:
    sentence = diverges(make_trainer("reinforce", gpt2_path, tmp_path, callbacks=[At(1, poison_gradient)]))
    assert "There is no checkpoint to go back to (`save_steps` makes them)." in sentence


def test_a_reference_that_gives_nan_is_no_silent_lack_of_credit(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, startup_checks=False)
    poison(trainer.ref_model)
    assert diverges(trainer).startswith("Training was stopped in step 1: the KL to the reference is nan")


def test_a_critic_that_gives_nan_is_no_silent_lack_of_credit(gpt2_path: str, tmp_path: Path) -> None:
    act = At(2, lambda model, **_: poison(model, name="critic"))
    sentence = diverges(make_trainer("ppo", gpt2_path, tmp_path, critic="shared", callbacks=[act]))
    assert sentence.startswith("Training was stopped in step 2: the norm of the gradients is nan")


def test_a_small_difference_of_every_token_is_more_than_rounding() -> None:
    mask = torch.ones(2, 50)
    log_probs = torch.full((2, 50), -2.0)
    rounded = log_probs + torch.tensor([0.004, -0.004]).repeat(2, 25)
    rounded[0, 0] += 0.3  # one token of a near tie
    given = (mask, (0.5, 0.02), "differs", "so the ratio is not 1")
    _check_same(log_probs, rounded, *given)
    for others, difference in (
        (log_probs + 0.03, r"0\.03"),
        (log_probs - 0.6 * (torch.arange(50) == 3), r"0\.6"),
        (log_probs * math.nan, "nan"),
    ):
        with pytest.raises(ValueError, match=f"the policy differs by {difference} in a token's log-prob.* is not 1"):
            _check_same(log_probs, others, *given)
