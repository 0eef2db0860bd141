"""What lmrl relies on in TRL. A test that fails here says which seam has moved; nothing else should."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from training import PROMPTS
from transformers.utils import ModelOutput
from trl import RLOOConfig, RLOOTrainer
from trl.trainer.utils import FusedCausalLMOutput, get_callable_name, is_async_callable, shuffle_sequence_dict

LISTENED = {
    "_calculate_rewards": ["inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["inputs"],
    "_compute_loss": ["model", "inputs"],
    "_generate_single_turn": ["prompt_ids", "images", "multimodal_fields"],
    "_tokenize_prompts": ["prompts"],
}
READ = [
    "beta", "ref_model", "temperature", "eos_token_ids", "reward_weights", "reward_clip_range", "num_generations",
    "num_generations_eval", "num_iterations", "epsilon_low", "epsilon_high", "generation_config", "_metrics", "_logs",
    "_step", "_buffered_inputs", "log_completions", "_dist", "_tokenizer", "max_completion_length",
]  # fmt: skip


def _args(folder: Path, **overrides: Any) -> RLOOConfig:
    defaults = {
        "output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no",
        "per_device_train_batch_size": 8, "num_generations": 2, "max_completion_length": 4, "max_steps": 1,
        "gradient_checkpointing": False, "disable_tqdm": True,
    }  # fmt: skip
    return RLOOConfig(**{**defaults, **overrides})


class Listener(RLOOTrainer):
    """RLOO, noting what passes through the seams."""

    def _get_per_token_logps_and_entropies(
        self, model: Any, ids: Any, mask: Any, keep: Any, *args: Any, **kwargs: Any
    ):
        self.models = [*getattr(self, "models", []), model]
        return super()._get_per_token_logps_and_entropies(model, ids, mask, keep, *args, **kwargs)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.rewards = super()._calculate_rewards(*args, **kwargs)
        return self.rewards

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.rollout = super()._generate_and_score_completions(inputs)
        self.rollout["row"] = torch.arange(len(inputs))
        return self.rollout

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        self.served = [*getattr(self, "served", []), inputs]
        return super()._compute_loss(model, inputs)


def _listener(path: str, folder: Path, **overrides: Any) -> Listener:
    def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(len(text)) for text in completions]

    dataset = Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS])
    return Listener(path, reward, _args(folder, **overrides), dataset)


def test_the_version_is_the_one_that_was_read() -> None:
    assert trl.__version__.startswith("1.16"), "lmrl was written against TRL 1.16: read the seams again"


@pytest.mark.parametrize("method", LISTENED)
def test_a_seam_takes_the_arguments_it_took(method: str) -> None:
    taken = list(inspect.signature(getattr(RLOOTrainer, method)).parameters)[1:]
    assert taken == LISTENED[method], f"RLOOTrainer.{method} now takes {taken}: PolicyGradientTrainer listens there"


def test_the_norm_of_the_gradients_is_asked_for_before_the_update() -> None:
    assert list(inspect.signature(RLOOTrainer._get_grad_norm).parameters) == ["self", "model", "grad_norm"]
    source = inspect.getsource(RLOOTrainer._run_epoch)
    assert source.index("self._get_grad_norm(") < source.index("self.optimizer.step()"), "the guard would be too late"


def test_log_probabilities_are_asked_for_by_model_ids_mask_and_length() -> None:
    taken = list(inspect.signature(RLOOTrainer._get_per_token_logps_and_entropies).parameters)[1:6]
    assert taken == ["model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"]


def test_the_attributes_that_are_read_are_there(gpt2_path: str, tmp_path: Path) -> None:
    trainer = _listener(gpt2_path, tmp_path)
    missing = [name for name in READ if not hasattr(trainer, name)]
    assert not missing, f"RLOOTrainer has no {missing} any more"


def test_a_rollout_is_scored_by_the_policy_first_and_then_by_the_reference(gpt2_path: str, tmp_path: Path) -> None:
    trainer = _listener(gpt2_path, tmp_path)
    trainer.train()
    assert trainer.models[:2] == [trainer.model, trainer.ref_model], "the order of the passes has changed"
    assert trainer.rewards.shape == (8, 1), "rewards are no longer (N over all processes, functions)"
    keys = {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "old_logps", "advantages"}
    assert keys <= trainer.rollout.keys(), f"the rollout has lost {keys - trainer.rollout.keys()}"


def test_without_beta_no_reference_is_asked(gpt2_path: str, tmp_path: Path) -> None:
    trainer = _listener(gpt2_path, tmp_path, beta=0.0)
    trainer.train()
    assert trainer.ref_model is None and trainer.models[0] is trainer.model


def test_extra_keys_are_shuffled_cut_and_served_again(gpt2_path: str, tmp_path: Path) -> None:
    trainer = _listener(
        gpt2_path, tmp_path, per_device_train_batch_size=4, steps_per_generation=2, num_iterations=2, max_steps=4
    )
    trainer.train()
    rows = [batch["row"].tolist() for batch in trainer.served]
    assert len(rows) == 4 and sorted(rows[0] + rows[1]) == list(range(8)), "a rollout is no longer cut into pieces"
    assert rows[2:] == rows[:2], "a rollout is no longer served num_iterations times"
    for batch in trainer.served:
        assert torch.equal(batch["advantages"], trainer.rollout["advantages"][batch["row"]]), "rows are not in unison"


def test_what_is_shuffled_is_shuffled_by_rows_in_unison() -> None:
    shuffled = shuffle_sequence_dict({"a": torch.arange(5), "b": torch.arange(5) * 2})
    assert torch.equal(shuffled["a"] * 2, shuffled["b"])


def test_one_generation_is_refused_last_of_all_checks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2 generations"):
        _args(tmp_path, num_generations=1)
    source = inspect.getsource(RLOOConfig.__post_init__).rstrip()
    assert source.rindex("at least 2 generations") > source.rindex("divisible by num_generations"), (
        "a check of RLOOConfig now follows the one on num_generations, and lmrl's configs would skip it"
    )


def test_the_metrics_that_are_replaced_are_logged(gpt2_path: str, tmp_path: Path) -> None:
    trainer = _listener(gpt2_path, tmp_path)
    trainer.train()
    names = {"reward", "reward_std", "kl", "entropy", "completions/clipped_ratio", "completions/mean_length"}
    assert names <= trainer.state.log_history[0].keys()
    assert len(trainer._logs["advantages"]) == 8


def test_trl_still_passes_no_positions(gpt2_path: str) -> None:
    source = inspect.getsource(RLOOTrainer._get_per_token_logps_and_entropies)
    assert "position_ids" not in source.replace("image_position_ids", ""), (
        "TRL passes position_ids now: the README's sentence on left padding can go"
    )


def test_padding_on_the_left_changes_what_trl_makes_of_gpt2(gpt2_path: str, tmp_path: Path) -> None:
    trainer = _listener(gpt2_path, tmp_path)
    trainer.model.eval()
    ids, mask = torch.tensor([[6, 7, 8, 9, 10]]), torch.ones(1, 5, dtype=torch.long)
    padding = torch.zeros(1, 20, dtype=torch.long)
    with torch.no_grad():
        alone = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 2)[0]
        padded = trainer._get_per_token_logps_and_entropies(
            trainer.model, torch.cat([padding, ids], dim=1), torch.cat([padding, mask], dim=1), 2
        )[0]
    assert (alone - padded).abs().max() > 0.1, "TRL is right about left padding now: the README's sentence can go"


def test_the_output_class_is_a_model_output() -> None:
    assert issubclass(FusedCausalLMOutput, ModelOutput)
    assert {"log_probs", "entropy"} <= set(FusedCausalLMOutput.__dataclass_fields__)


def test_names_of_rewards_and_async_ones_are_told_as_they_were() -> None:
    async def later(**_: Any) -> list[float]:
        return []

    class Reward:
        __name__ = "mine"

        def __call__(self, **_: Any) -> list[float]:
            return []

    assert (get_callable_name(Reward()), get_callable_name(later)) == ("mine", "later")
    assert is_async_callable(later) and not is_async_callable(Reward())
