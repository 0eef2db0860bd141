"""The seams of TRL and transformers that lmrl builds on. A failure here names the seam that has moved."""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import trl
from accelerate import Accelerator
from datasets import Dataset
from packaging.requirements import Requirement
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_state import FSDPState
from training import PROMPTS, make_trainer
from transformers import Trainer
from transformers.integrations import deepspeed
from transformers.utils import ModelOutput
from trl import RLOOConfig, RLOOTrainer
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer.utils import FusedCausalLMOutput, get_callable_name, is_async_callable, shuffle_sequence_dict

from lmrl.trainers import PolicyGradientTrainer

ROOT = Path(__file__).resolve().parents[2]

# Every method that PolicyGradientTrainer overrides, with its parameters after `self`.
OVERRIDDEN: dict[str, str] = {
    "_calculate_rewards": "inputs prompts completions completion_ids_list",
    "_compute_loss": "model inputs",
    "_determine_best_metric": "metrics trial",
    "_generate": "prompts",
    "_generate_and_score_completions": "inputs",
    "_generate_single_turn": "prompt_ids images multimodal_fields",
    "_get_grad_norm": "model grad_norm",
    "_get_output_dir": "trial",
    "_get_per_token_logps_and_entropies": "model input_ids attention_mask logits_to_keep batch_size compute_entropy "
    "compute_aux_loss pixel_values image_grid_thw num_images pixel_attention_mask spatial_shapes num_tiles "
    "image_sizes token_type_ids mm_token_type_ids image_position_ids",
    "_get_train_sampler": "dataset",
    "_init_training_state": "max_steps num_update_steps_per_epoch num_train_epochs resume_from_checkpoint trial",
    "_load_best_model": "",
    "_load_optimizer_and_scheduler": "checkpoint",
    "_push_from_checkpoint": "checkpoint_folder",
    "_save": "output_dir state_dict",
    "_save_checkpoint": "model trial",
    "create_model_card": "model_name dataset_name tags",
    "create_optimizer": "model",
    "evaluation_loop": "dataloader description prediction_loss_only ignore_keys metric_key_prefix",
    "save_model": "output_dir _internal_call",
    "train": "resume_from_checkpoint trial ignore_keys_for_eval",
    "training_step": "model inputs num_items_in_batch",
}
# Every private name that lmrl.trainers reads beside, with its owner; a trainer has its own once it has trained.
PRIVATE: dict[str, Any] = {
    "_buffered_inputs": RLOOTrainer,
    "_forward_pre_hooks": torch.nn.Module(),
    "_get_fsdp_state": FSDPModule,
    "_globalstep_last_logged": RLOOTrainer,
    "_hf_deepspeed_config_weak_ref": deepspeed,
    "_iter_named_params": VLLMGeneration,
    "_lazy_init": FSDPState,
    "_load_rng_state": RLOOTrainer,
    "_logs": RLOOTrainer,
    "_metrics": RLOOTrainer,
    "_name_or_path": transformers.PretrainedConfig(),
    "_original_forward": Accelerator.prepare_model,  # a function that sets it
    "_step": RLOOTrainer,
    "_tokenize_prompts": RLOOTrainer,
    "_tokenizer": RLOOTrainer,
    "_tr_loss": RLOOTrainer,
}
# Public attributes that a trainer of TRL has.
PUBLIC = [
    "accelerator", "args", "aux_loss_enabled", "beta", "callback_handler", "control", "eos_token_ids", "epsilon_high",
    "epsilon_low",
    "generation_config", "is_deepspeed_enabled", "is_fsdp_enabled", "log_completions", "model", "model_wrapped",
    "num_generations", "num_generations_eval", "num_iterations", "processing_class", "ref_model", "reward_clip_range",
    "router_aux_loss_coef", "reward_funcs", "reward_weights", "state", "temperature", "train_dataset", "use_vllm",
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


@pytest.mark.parametrize("module", [trl, transformers])
def test_the_version_is_bounded_above_by_the_one_that_was_read(module: Any) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    line = next(line for line in project.splitlines() if line.strip().startswith(f'"{module.__name__}>'))
    bounds = Requirement(line.strip(' ,"')).specifier
    major, minor, *_ = module.__version__.split(".")
    assert bounds.contains(module.__version__), f"read the seams again for {module.__name__} {module.__version__}"
    assert not bounds.contains(f"{major}.{int(minor) + 1}.0")


def test_every_override_is_in_the_table() -> None:
    inherited = {name for name in {*dir(RLOOTrainer), *dir(Trainer)} if not name.startswith("__")}
    assert vars(PolicyGradientTrainer).keys() & inherited == {*OVERRIDDEN, "_name", "_paper", "_tag_names"}


@pytest.mark.parametrize("method", OVERRIDDEN)
def test_a_seam_has_the_parameters_it_had(method: str) -> None:
    parameters = list(inspect.signature(getattr(RLOOTrainer, method)).parameters)[1:]
    assert parameters == OVERRIDDEN[method].split()


def test_every_private_name_that_is_read_is_in_the_table() -> None:
    read, own = set(), set()
    for path in (ROOT / "lmrl" / "distributed.py", *(ROOT / "lmrl" / "trainers").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                read.add(node.attr)
                if isinstance(node.ctx, ast.Store) and not hasattr(RLOOTrainer, node.attr):
                    own.add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                own.add(node.target.id)
    own -= set(PRIVATE)
    assert read - own == set(PRIVATE)


def test_the_names_that_are_read_are_there(gpt2_path: str, tmp_path: Path) -> None:
    trainer = _listener(gpt2_path, tmp_path)
    trainer.train()
    owners = {name: trainer if owner is RLOOTrainer else owner for name, owner in PRIVATE.items()}
    owners |= dict.fromkeys(PUBLIC, trainer)
    sources = {name: inspect.getsource(owner) for name, owner in owners.items() if inspect.isfunction(owner)}
    missing = [
        name for name, owner in owners.items() if not hasattr(owner, name) and name not in sources.get(name, "")
    ]
    assert missing == []


def test_the_norm_of_the_gradients_is_computed_before_the_update() -> None:
    source = inspect.getsource(RLOOTrainer._run_epoch)
    assert source.index("self._get_grad_norm(") < source.index("self.optimizer.step()"), "the guard would be too late"


def test_trl_gets_the_facts_of_the_algorithm(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("ppo", gpt2_path, tmp_path)
    assert (trainer._name, trainer._tag_names) == ("PPO", ["trl", "lmrl", "ppo"])
    assert trainer._paper == {**trainer.paper, "citation": trainer.citation}
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "[Proximal Policy Optimization Algorithms](https://huggingface.co/papers/1707.06347)" in card


def test_a_rollout_has_ids_and_masks_and_rewards_are_gathered(gpt2_path: str, tmp_path: Path) -> None:
    trainer = _listener(gpt2_path, tmp_path)
    trainer.train()
    assert trainer.rewards.shape == (8, 1), "rewards are no longer (N over all processes, functions)"
    keys = {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "old_logps", "advantages"}
    assert keys <= trainer.rollout.keys(), f"the rollout has lost {keys - trainer.rollout.keys()}"


def test_without_beta_no_reference_is_run(gpt2_path: str, tmp_path: Path) -> None:
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


def test_names_of_rewards_and_async_ones_are_found_as_they_were() -> None:
    async def later(**_: Any) -> list[float]:
        return []

    class Reward:
        __name__ = "named"

        def __call__(self, **_: Any) -> list[float]:
            return []

    assert (get_callable_name(Reward()), get_callable_name(later)) == ("named", "later")
    assert is_async_callable(later) and not is_async_callable(Reward())
