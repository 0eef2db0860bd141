"""Each argument of TRL's RLOO: what it sets, the sentence that refuses it, or why it is not applicable here.

The tables are checked against the signatures, so that an argument of a later TRL fails the first test, and against
the section of docs/trainers.md.
"""

import contextlib
import inspect
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import ParallelismConfig
from datasets import Dataset, IterableDataset
from tiny import CHAT_TEMPLATE, tiny_tokenizer
from training import PROMPTS, make_trainer, share_of_a, share_of_letters
from transformers import AutoModelForCausalLM, ProgressCallback
from trl import RLOOConfig, RLOOTrainer

from lmrl.trainers import PolicyGradientTrainer

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")


@dataclass
class Run:
    """A trainer that was built or has trained, the calls of its reward, and what was printed meanwhile."""

    trainer: PolicyGradientTrainer
    calls: list[dict[str, Any]]
    printed: str

    @property
    def logs(self) -> list[dict[str, Any]]:
        """The logs of training, without the last line and those of evaluations."""
        return [entry for entry in self.trainer.state.log_history if "reward" in entry]

    def lengths(self) -> set[int]:
        """Returns the numbers of completions of the rollouts."""
        return {len(call["prompts"]) for call in self.calls}

    def batch(self) -> dict[str, torch.Tensor]:
        """Returns a batch of the last rollout."""
        return self.trainer._buffered_inputs[0]

    def option(self, name: str) -> Any:
        """Returns an option of the optimizer."""
        return self.trainer.optimizer.param_groups[0][name]


Check = Callable[[Run], Any]


def arrived(run: Run, name: str, value: Any) -> bool:
    """Returns whether the trainer's configuration has a value, which other code than lmrl's reads."""
    return getattr(run.trainer.args, name) == value


def total_reward(run: Run) -> float:
    """Returns the mean of the first rollout's rewards, weighted and clipped as the run was given."""
    texts = run.calls[0]["completions"]
    pairs = zip(share_of_letters(texts), share_of_a(texts), strict=True)
    return sum(min(max(2 * letters - share, 0.1), 0.7) for letters, share in pairs) / len(texts)


def cut_completions_are_masked(run: Run) -> bool:
    """Returns whether no token of a completion without an EOS counts, and all those of the others."""
    batch = run.batch()
    has_ended = (batch["completion_ids"] == run.trainer.processing_class.eos_token_id).any(dim=1)
    return torch.equal(batch["completion_mask"].any(dim=1), has_ended) and not has_ended.all()


def reference_is_mixed(run: Run) -> bool:
    """Returns whether the reference is 0.75 of the policy and 0.25 of what it was."""
    before = AutoModelForCausalLM.from_pretrained(run.trainer.model.config._name_or_path).state_dict()
    after, policy = run.trainer.ref_model.state_dict(), run.trainer.model.state_dict()
    return all(torch.allclose(after[name], 0.75 * policy[name] + 0.25 * before[name], atol=1e-6) for name in after)


def checkpoints(run: Run) -> list[str]:
    """Returns the names of the checkpoints that are left."""
    return sorted(path.name for path in Path(run.trainer.args.output_dir).glob("checkpoint-*"))


def evaluations(run: Run, name: str) -> list[int]:
    """Returns the steps that have a metric."""
    return [entry["step"] for entry in run.trainer.state.log_history if name in entry]


def rows_in_tables(run: Run) -> int:
    """Returns how many completions were printed."""
    return len(re.findall(r"^│ │ \S", run.printed, re.MULTILINE))


def rates(run: Run) -> bool:
    """Returns whether the learning rate is 0, then in full, then a quarter of the way down to half of it."""
    return [entry["learning_rate"] for entry in run.logs] == pytest.approx([0, 2e-3, 1.5e-3])


# -- supported: a value, and a check of the run that has it; without a check its arrival -----------------------------

SAMPLED: dict[str, tuple[Any, Check | None]] = {
    "output_dir": ("", lambda run: Path(run.trainer.args.output_dir, "log.jsonl").is_file()),
    "per_device_train_batch_size": (4, lambda run: run.lengths() == {8}),
    "gradient_accumulation_steps": (2, lambda run: len(run.calls) == 3),
    "max_steps": (3, lambda run: run.trainer.state.global_step == 3),
    "learning_rate": (2e-3, rates),
    "lr_scheduler_type": ("cosine_with_min_lr", rates),
    "lr_scheduler_kwargs": ({"min_lr_rate": 0.5}, rates),
    "warmup_steps": (1, rates),
    "optim": ("adamw_torch", lambda run: run.option("fused") is None),
    "weight_decay": (0.01, lambda run: run.option("weight_decay") == 0.01),
    "adam_beta1": (0.8, lambda run: run.option("betas")[0] == 0.8),
    "adam_beta2": (0.9, lambda run: run.option("betas")[1] == 0.9),
    "adam_epsilon": (1e-6, lambda run: run.option("eps") == 1e-6),
    "max_grad_norm": (0.5, None),
    "temperature": (0.7, lambda run: run.trainer.generation_config.temperature == 0.7),
    "num_generations": (2, lambda run: run.calls[0]["prompts"][::2] == run.calls[0]["prompts"][1::2]),
    "max_completion_length": (6, lambda run: max(map(len, run.calls[0]["completion_ids"])) == 6),
    "shuffle_dataset": (False, lambda run: run.calls[0]["prompts"][::2] == PROMPTS[:4]),
    "remove_unused_columns": (True, lambda run: "note" not in run.calls[0]),
    "reward_weights": ([2.0, -1.0], lambda run: run.logs[0]["reward"] == pytest.approx(total_reward(run))),
    "reward_clip_range": ((0.1, 0.7), lambda run: run.logs[0]["reward"] == pytest.approx(total_reward(run))),
    "normalize_advantages": (True, lambda run: run.logs[0]["advantages/std"] == pytest.approx(1, abs=0.01)),
    "beta": (0.1, lambda run: run.logs[0]["kl_coef"] == 0.1),
    "epsilon": (0.1, lambda run: run.trainer.epsilon_low == 0.1),
    "epsilon_high": (0.3, lambda run: run.trainer.epsilon_high == 0.3),
    "pad_to_multiple_of": (8, lambda run: {t.shape[1] % 8 for n, t in run.batch().items() if "_ids" in n} == {0}),
    "logging_steps": (1, lambda run: len(run.logs) == 3),
    "log_completions": (True, lambda run: "Completion" in run.printed),
    "num_completions_to_print": (
        1,
        lambda run: len(re.findall("^│ │ \\S", run.printed, re.M)) == run.printed.count(" Step "),
    ),
    "log_unique_prompts": (True, None),
    "save_strategy": ("steps", lambda run: checkpoints(run) == ["checkpoint-2", "checkpoint-3"]),
    "save_steps": (1, lambda run: checkpoints(run) == ["checkpoint-2", "checkpoint-3"]),
    "save_total_limit": (2, lambda run: checkpoints(run) == ["checkpoint-2", "checkpoint-3"]),
    "save_only_model": (True, lambda run: not list(Path(run.trainer.args.output_dir).rglob("optimizer.pt"))),
    "disable_tqdm": (True, lambda run: run.trainer.pop_callback(ProgressCallback) is None),
    "disable_dropout": (True, lambda run: run.trainer.model.model.layers[0].self_attn.attention_dropout == 0),
    "model_init_kwargs": (
        {"attn_implementation": "eager"},
        lambda run: run.trainer.model.config._attn_implementation == "eager",
    ),
    "cache_implementation": (
        "dynamic",
        lambda run: run.trainer.generation_config.cache_implementation == "dynamic",
    ),
    "generation_kwargs": ({"use_cache": True}, lambda run: run.trainer.generation_config.use_cache),
    "use_cpu": (True, lambda run: run.trainer.model.device.type == "cpu"),
    "seed": (3, None),
    "sync_ref_model": (True, reference_is_mixed),
    "ref_model_mixup_alpha": (0.75, reference_is_mixed),
    "ref_model_sync_steps": (3, reference_is_mixed),
}
REUSED: dict[str, tuple[Any, Check | None]] = {
    "num_train_epochs": (1, lambda run: run.trainer.state.global_step == 8 and len(run.calls) == 2),
    "num_iterations": (2, lambda run: run.trainer.state.global_step == 8),
    "generation_batch_size": (8, lambda run: run.lengths() == {8}),
    "optim": ("rmsprop", lambda run: type(run.trainer.optimizer.optimizer) is torch.optim.RMSprop),
    "optim_args": ("alpha=0.5", lambda run: run.option("alpha") == 0.5),
    "mask_truncated_completions": (True, cut_completions_are_masked),
    "gradient_checkpointing": (True, lambda run: run.trainer.model.is_gradient_checkpointing),
    "gradient_checkpointing_kwargs": ({"use_reentrant": False}, None),
    "logging_strategy": ("epoch", lambda run: [entry["step"] for entry in run.logs] == [1, 8]),
    "logging_first_step": (True, lambda run: [entry["step"] for entry in run.logs] == [1, 8]),
    "torch_empty_cache_steps": (1, None),
}
EVALUATED: dict[str, tuple[Any, Check | None]] = {
    "steps_per_generation": (2, lambda run: run.trainer.args.generation_batch_size == 16),
    "eval_strategy": ("steps", lambda run: evaluations(run, "eval_own_reward") == [0, 2]),
    "eval_steps": (1, lambda run: evaluations(run, "eval_own_reward") == [0, 2]),
    "eval_on_start": (True, lambda run: evaluations(run, "eval_own_reward") == [0, 2]),
    "eval_delay": (2, lambda run: evaluations(run, "eval_own_reward") == [0, 2]),
    "per_device_eval_batch_size": (6, lambda run: run.lengths() == {6, 16, 3}),
    "num_generations_eval": (3, lambda run: len(set(run.calls[0]["prompts"])) == 2),
    "load_best_model_at_end": (True, lambda run: run.trainer.state.best_model_checkpoint.endswith("checkpoint-2")),
    "metric_for_best_model": ("own_reward", lambda run: run.trainer.state.best_metric is not None),
    "greater_is_better": (True, None),
    "save_strategy": ("best", lambda run: checkpoints(run) == ["checkpoint-2"]),
}
BUILT: dict[str, tuple[Any, Check | None]] = {
    "activation_checkpointing": (True, lambda run: run.trainer.args.gradient_checkpointing),
    "activation_checkpointing_kwargs": ({"use_reentrant": False}, None),
    "torch_compile": (True, lambda run: run.trainer.accelerator.state.dynamo_plugin.backend.value == "EAGER"),
    "torch_compile_backend": ("eager", None),
    "torch_compile_mode": ("default", None),
    "chat_template_kwargs": (
        {"note": "w x"},
        lambda run: (
            run.trainer._tokenize_prompts([[{"role": "user", "content": "a"}]])[0]
            == run.trainer.processing_class(["user a w x assistant"])["input_ids"]
        ),
    ),
    "use_cache": (True, lambda run: run.trainer.model.config.use_cache),
    "accelerator_config": ({"even_batches": False}, lambda run: not run.trainer.args.accelerator_config.even_batches),
    "fp16": (True, lambda run: run.trainer.accelerator.mixed_precision == "fp16"),
    "report_to": ([], None),
    "run_name": ("own", None),
    "debug": ("", lambda run: run.trainer.args.debug == []),
    **{
        name: (value, None)
        for name, value in {
            "optim_target_modules": "all-linear",
            "log_on_each_node": False,
            "logging_nan_inf_filter": False,
            "log_level": "error",
            "log_level_replica": "error",
            "project": "own",
            "trackio_space_id": "own",
            "trackio_bucket_id": "own",
            "trackio_static_space_id": "own",
            "save_on_each_node": True,
            "hub_token": "own",
            "hub_private_repo": True,
            "hub_model_id": "own/model",
            "hub_strategy": "end",
            "hub_always_push": True,
            "hub_revision": "own",
            "ignore_data_skip": True,
            "restore_callback_states_from_checkpoint": True,
            "full_determinism": False,
            "dataloader_num_workers": 1,
            "dataloader_pin_memory": False,
            "dataloader_persistent_workers": True,
            "dataloader_prefetch_factor": 3,
            "dataloader_multiprocessing_context": "fork",
            "dataloader_in_order": False,
            "ddp_find_unused_parameters": True,
            "ddp_bucket_cap_mb": 10,
            "ddp_broadcast_buffers": False,
            "ddp_static_graph": True,
            "ddp_timeout": 60,
            "skip_memory_metrics": False,
            "ds3_gather_for_generation": False,
            "vllm_mode": "server",
            "vllm_model_impl": "transformers",
            "vllm_enable_sleep_mode": True,
            "vllm_server_base_url": "http://localhost:1",
            "vllm_server_host": "localhost",
            "vllm_server_port": 1,
            "vllm_server_timeout": 1.0,
            "vllm_group_port": 2,
            "vllm_gpu_memory_utilization": 0.5,
            "vllm_max_model_length": 64,
            "vllm_tensor_parallel_size": 2,
        }.items()
    },
}
RUNS = {"sampled": SAMPLED, "reused": REUSED, "evaluated": EVALUATED, "built": BUILT}

# Supported, with a test of its own here or in another file.
_ENGINES = "test_two_processes_under_an_engine_equal_one"
_BATCHING = "test_continuous_batching_leaves_weights_and_mode_as_they_were"
TESTED: dict[str, str] = {
    "bf16": "test_in_bfloat16_ratio_and_kl_start_right_and_the_weights_stay_float32",
    "tf32": "test_tf32_needs_a_gpu",
    "fsdp": _ENGINES,
    "fsdp_config": _ENGINES,
    "deepspeed": _ENGINES,
    "ddp_backend": _ENGINES,
    "use_vllm": "test_vllm_gets_the_weights_of_the_plain_model",
    "push_to_hub": "test_what_is_pushed_last_is_the_model_with_its_scores",
    "resume_from_checkpoint": "test_two_steps_a_kill_and_the_rest_are_the_straight_run",
    "trust_remote_code": "test_code_of_a_model_is_run_if_it_is_trusted",
    "use_transformers_continuous_batching": _BATCHING,
    "transformers_continuous_batching_config": _BATCHING,
    "use_transformers_paged": _BATCHING,
}

# Refused: a value, and a part of the sentence.
REFUSED: dict[str, tuple[Any, str]] = {
    "top_k": (5, "`top_k` must be 0 in training, got 5. Another value changes the distribution"),
    "top_p": (0.9, "`top_p` must be 1.0 in training, got 0.9"),
    "min_p": (0.1, "`min_p` must be None in training, got 0.1"),
    "repetition_penalty": (1.1, "`repetition_penalty` must be 1.0 in training, got 1.1"),
    "vllm_structured_outputs_regex": ("a+", "`vllm_structured_outputs_regex` must be None in training, got 'a+'"),
    "neftune_noise_alpha": (5.0, "`neftune_noise_alpha` must be None in training, got 5.0. Its noise"),
    "label_smoothing_factor": (0.1, "`label_smoothing_factor` must be 0.0 in training, got 0.1"),
    "train_sampling_strategy": (
        "sequential",
        "`train_sampling_strategy` must be 'random' in training, got 'sequential'",
    ),
    "auto_find_batch_size": (True, "`auto_find_batch_size` must be False in training, got True"),
    "bf16_full_eval": (True, "`bf16_full_eval` must be False in training, got True. It rounds the weights"),
    "fp16_full_eval": (True, "`fp16_full_eval` must be False in training, got True. It rounds the weights"),
    "enable_jit_checkpoint": (True, "`enable_jit_checkpoint` must be False in training, got True. A run is saved"),
    "use_liger_kernel": (True, "`use_liger_kernel` must be False in training, got True"),
    "data_seed": (1, "`data_seed` must be None in training, got 1. The order of the prompts follows `seed`"),
    "router_aux_loss_coef": (0.1, "`router_aux_loss_coef`"),
    "parallelism_config": (ParallelismConfig(cp_size=2), "cp_size"),
}

# Not applicable, and why: the words of docs/trainers.md.
NOT_APPLICABLE: dict[str, str] = {
    "average_tokens_across_devices": "a loss is always averaged over the tokens of all processes",
    "liger_kernel_config": "`use_liger_kernel` is refused",
    "length_column_name": "of a sampling strategy that is refused",
    "prediction_loss_only": "`compute_metrics` is not an argument of RLOO: see `held_out_metrics`",
    "include_for_metrics": "as `prediction_loss_only`",
    "batch_eval_metrics": "as `prediction_loss_only`",
    "eval_do_concat_batches": "as `prediction_loss_only`",
    "eval_use_gather_object": "as `prediction_loss_only`",
    "eval_accumulation_steps": "as `prediction_loss_only`",
    "label_names": "there are no labels",
    "include_num_input_tokens_seen": "`num_tokens` is always logged",
    "dataloader_drop_last": "the last incomplete rollout is always dropped",
    "log_multimodal": "images are refused",
    "do_train": "read by scripts of transformers alone",
    "do_eval": "follows `eval_strategy`",
    "do_predict": "read by scripts of transformers alone",
    "local_rank": "comes from the launcher",
}

# Of the constructor: the test that passes it.
CONSTRUCTOR: dict[str, str] = {
    "model": "test_an_adapter_by_its_folder_is_trained_further",
    "reward_funcs": "test_arguments_are_followed",
    "args": "test_without_a_configuration_there_is_one_of_the_trainer",
    "train_dataset": "test_a_dataset_may_make_its_prompts_when_they_are_read",
    "eval_dataset": "test_each_held_out_set_has_its_own_metrics",
    "processing_class": "test_arguments_stand_where_rloo_has_them",
    "reward_processing_classes": "test_an_argument_of_the_constructor_is_refused",
    "callbacks": "test_arguments_stand_where_rloo_has_them",
    "optimizers": "test_an_optimizer_that_is_given_trains_the_critic_too",
    "quantization_config": "test_a_model_by_its_name_is_loaded_with_the_quantization_that_is_given",
    "peft_config": "test_an_adapter_by_its_folder_is_trained_further",
}


def make_run(name: str, model: str, folder: Path) -> Run:
    """Returns a run with the values of its table."""
    calls: list[dict[str, Any]] = []

    def share_of_letters_noted(**given: Any) -> list[float]:
        calls.append(given)
        return share_of_letters(given["completions"])

    share_of_letters_noted.columns = ()
    options = {argument: value for argument, (value, _) in RUNS[name].items() if argument != "output_dir"}
    rows = [{"prompt": prompt, "note": "n"} for prompt in PROMPTS]
    algorithm = "ppo" if name == "reused" else "reinforce"
    if name == "reused":
        options |= {"max_steps": -1, "per_device_train_batch_size": 4}
    if name == "built":
        rows = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
        options["processing_class"] = tiny_tokenizer()
        options["processing_class"].chat_template = CHAT_TEMPLATE.replace("assistant", "{{ note }} assistant")
    if name == "evaluated":
        options["eval_dataset"] = {"own": rows[:2], "stream": IterableDataset.from_generator(lambda: iter(rows[:1]))}
    rewards = [share_of_letters_noted, share_of_a] if name == "sampled" else share_of_letters_noted
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        options = {"train_dataset": Dataset.from_list(rows), **options}
        trainer = make_trainer(algorithm, model, folder / "out", reward=rewards, **options)
        if name != "built":
            trainer.train()
    return Run(trainer, calls, printed.getvalue())


def test_every_argument_of_rloo_stands_in_one_table() -> None:
    tables = [*RUNS.values(), TESTED, REFUSED, NOT_APPLICABLE]
    names = {name for table in tables for name in table}
    assert names == {field.name for field in fields(RLOOConfig)}
    assert [name for name in (*REFUSED, *NOT_APPLICABLE) if sum(name in table for table in tables) > 1] == []
    assert list(CONSTRUCTOR) == list(inspect.signature(RLOOTrainer.__init__).parameters)[1:]


def test_an_argument_with_a_test_of_its_own_has_it() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    assert [test for test in {*TESTED.values(), *CONSTRUCTOR.values()} if f"def {test}(" not in text] == []


@pytest.mark.parametrize("name", RUNS)
def test_arguments_are_followed(name: str, llama_path: str, tmp_path: Path) -> None:
    run = make_run(name, llama_path, tmp_path)
    followed = {
        argument: bool((check or partial(arrived, name=argument, value=value))(run))
        for argument, (value, check) in RUNS[name].items()
    }
    assert [argument for argument, is_followed in followed.items() if not is_followed] == []


@pytest.mark.parametrize("name", REFUSED)
def test_an_argument_that_cannot_be_followed_is_refused(name: str, llama_path: str, tmp_path: Path) -> None:
    value, part = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(part)):
        make_trainer("reinforce", llama_path, tmp_path, **{name: value})


def rows_of(heading: str) -> dict[str, str]:
    """Returns the rows of a table of the documentation: a name and its last cell."""
    section = DOCS.split(f"**{heading}**")[1].split("\n\n")[1]
    return {
        name: line.split(" | ")[-1].strip("| ")
        for line in section.splitlines()[2:]
        for name in re.findall(r"`(\w+)`", line.split(" | ")[0])
    }


def test_the_documentation_has_the_same_tables() -> None:
    assert rows_of("Refused").keys() == {*REFUSED, "reward_processing_classes"}
    assert rows_of("Not applicable") == NOT_APPLICABLE
