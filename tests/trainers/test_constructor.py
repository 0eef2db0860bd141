"""The constructor takes what TRL's RLOO takes, and follows it or refuses it; so do datasets and the logs."""

import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, get_peft_model
from tiny import tiny_llama, tiny_tokenizer
from training import ALGORITHMS, PROMPTS, make_trainer, share_of_a, share_of_letters
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
)
from trl import BEMACallback, RLOOConfig, RLOOTrainer

from lmrl.trainers import PolicyGradientTrainer, PPOConfig, PPOTrainer, ReinforceConfig, ReinforceTrainer


def own_config(kind: type, folder: Path, **options: Any) -> Any:
    """Returns a configuration for the tests below, which call the constructor themselves."""
    few = {"max_completion_length": 8, "use_cpu": True, "bf16": False, "report_to": [], "max_steps": 2}
    return kind(str(folder), per_device_train_batch_size=8, num_generations=2, disable_tqdm=True, **few | options)


def rows() -> Dataset:
    """Returns a row for each prompt."""
    return Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS])


def moved(trainer: PolicyGradientTrainer) -> set[str]:
    """Trains; returns whether weights of the policy and of the critic have moved."""
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}
    return {"critic" if "critic" in name else "policy" for name in changed}


def test_arguments_stand_where_rloo_has_them(llama_path: str, tmp_path: Path) -> None:
    parameters = list(inspect.signature(RLOOTrainer.__init__).parameters)
    assert list(inspect.signature(PolicyGradientTrainer.__init__).parameters)[: len(parameters)] == parameters
    tokenizer, callback, optimizer = tiny_tokenizer(), TrainerCallback(), torch.optim.SGD
    model = AutoModelForCausalLM.from_pretrained(llama_path)
    optimizers = (optimizer(model.parameters(), lr=0.1), None)
    trainer = ReinforceTrainer(
        model,
        share_of_letters,
        own_config(ReinforceConfig, tmp_path),
        rows(),
        rows().select([0]),
        tokenizer,
        None,
        [callback],
        optimizers,
    )
    assert trainer.eval_dataset.num_rows == 1
    assert trainer.processing_class is tokenizer
    assert callback in trainer.callback_handler.callbacks
    assert trainer.optimizer is optimizers[0]


def test_without_a_configuration_there_is_one_of_the_trainer(
    llama_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = tiny_llama(tmp_path / "policy", max_position_embeddings=1024)
    trainer = PPOTrainer(model=name, reward_funcs=share_of_letters, train_dataset=rows())
    assert type(trainer.args) is PPOConfig
    assert trainer.args.output_dir == "policy-PPO"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"args": RLOOConfig("x", use_cpu=True, bf16=False)}, "`args` must be a ReinforceConfig, got a RLOOConfig"),
        ({"args": PPOConfig("x", use_cpu=True)}, "`args` must be a ReinforceConfig, got a PPOConfig"),
        ({"ref_model": None}, "`ref_model` must be left out of ReinforceTrainer, got None. The reference is a frozen"),
        ({"rewards": []}, "`rewards` must be left out of ReinforceTrainer, got []. Options of the training are"),
        ({"reward_funcs": "runs/reward"}, "got 'runs/reward'. Write `lmrl.rewards.RewardModel(model)`, or"),
        ({"reward_processing_classes": [None]}, "`reward_processing_classes` must be None, got one"),
        ({"held_out_metrics": {"a": None}}, "by the names of `eval_dataset`, ['eval_dataset'], got ['a']"),
        ({"eval_dataset": {"a": None}, "held_out_metrics": len}, "`eval_dataset`, ['a'], got ['one function']"),
        ({"model": "loaded", "quantization_config": BitsAndBytesConfig()}, "must be None for a model that is loaded"),
        ({"model": "frozen"}, "`model` must have weights that train"),
        ({"model": "loaded", "peft_config": LoraConfig(), "optimizers": "of the base"}, "one without any"),
    ],
)
def test_an_argument_of_the_constructor_is_refused(
    options: dict[str, Any], part: str, llama_path: str, tmp_path: Path
) -> None:
    model: Any = llama_path
    if "model" in options:
        model = AutoModelForCausalLM.from_pretrained(llama_path)
        model.requires_grad_(options["model"] == "loaded")
        model.eval()
    if "optimizers" in options:
        options = {**options, "optimizers": (torch.optim.SGD(model.parameters(), lr=0.1), None)}
    given = {"args": own_config(ReinforceConfig, tmp_path), **options, "model": model}
    with pytest.raises((TypeError, ValueError), match=re.escape(part)):
        ReinforceTrainer(**{"reward_funcs": share_of_letters, "train_dataset": rows(), **given})


@pytest.mark.parametrize(
    "kind", [AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoModel, "adapter", "t5", "none"]
)
def test_a_loaded_model_that_writes_no_texts_is_refused(kind: Any, llama_path: str) -> None:
    if kind == "none":
        model = None
    elif kind == "t5":
        sizes = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_heads": 2, "num_layers": 1}
        model = T5ForConditionalGeneration(T5Config(vocab_size=64, **sizes))
    elif kind == "adapter":
        classifier = AutoModelForSequenceClassification.from_pretrained(llama_path)
        model = get_peft_model(classifier, LoraConfig(task_type="SEQ_CLS"))
    else:
        model = kind.from_pretrained(llama_path)
    with pytest.raises(ValueError, match=r"`model` must be a causal language model, got a \w+\. Give the model that"):
        ReinforceTrainer(model, share_of_letters, train_dataset=rows(), processing_class=tiny_tokenizer())


def test_weights_are_as_many_as_rewards(llama_path: str, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"`reward_weights` must have a weight for each of the 2 rewards, got \[1.0\]"
    ):
        make_trainer("ppo", llama_path, tmp_path, reward=[share_of_letters, share_of_a], reward_weights=[1.0])


def test_an_adapter_by_its_folder_is_trained_further(llama_path: str, tmp_path: Path) -> None:
    first = make_trainer("ppo", llama_path, tmp_path, peft_config=LoraConfig(task_type="CAUSAL_LM"))
    first.train()
    first.save_model(str(tmp_path / "adapter"))
    tiny_tokenizer().save_pretrained(tmp_path / "adapter")
    trainer = make_trainer("ppo", str(tmp_path / "adapter"), tmp_path, critic="shared", max_steps=3)
    assert moved(trainer) == {"policy", "critic"}
    assert all(
        "lora" in name
        for name, weight in trainer.model.named_parameters()
        if weight.requires_grad and "critic" not in name
    )


def test_a_model_by_its_name_is_loaded_with_the_quantization_that_is_given(llama_path: str, tmp_path: Path) -> None:
    trainer = ReinforceTrainer(
        llama_path,
        share_of_letters,
        own_config(ReinforceConfig, tmp_path, model_init_kwargs={"device_map": {"": "cpu"}}),
        rows(),
        quantization_config=BitsAndBytesConfig(load_in_4bit=True),
        peft_config=LoraConfig(),
    )
    assert trainer.model.is_loaded_in_4bit
    assert trainer.args.model_init_kwargs == {"device_map": {"": "cpu"}}


def test_code_of_a_model_is_run_if_it_is_trusted(llama_path: str, tmp_path: Path) -> None:
    shutil.copytree(llama_path, tmp_path / "own")
    lines = ["from transformers import LlamaForCausalLM", "class OwnLlama(LlamaForCausalLM): pass"]
    (tmp_path / "own" / "own_llama.py").write_text("\n".join(lines), encoding="utf-8")
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "own_llama.OwnLlama"}
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    for trusted, name in ((True, "OwnLlama"), (False, "LlamaForCausalLM")):
        trainer = make_trainer("reinforce", tmp_path / "own", tmp_path / name, trust_remote_code=trusted)
        assert type(trainer.model).__name__ == name


def test_an_optimizer_that_is_given_trains_the_critic_too(llama_path: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama_path)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    config = own_config(PPOConfig, tmp_path, critic="shared", critic_learning_rate=0.01)
    given = {"args": config, "train_dataset": rows()}
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    with pytest.raises(ValueError, match="`optimizers` must have no schedule with a critic that is trained"):
        PPOTrainer(
            model, share_of_letters, optimizers=(optimizer, schedule), processing_class=tiny_tokenizer(), **given
        )
    model = AutoModelForCausalLM.from_pretrained(llama_path)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    trainer = PPOTrainer(
        model, share_of_letters, optimizers=(optimizer, None), processing_class=tiny_tokenizer(), **given
    )
    assert moved(trainer) == {"policy", "critic"}
    assert [group["initial_lr"] for group in optimizer.param_groups] == [1e-3, 0.01]


@pytest.mark.parametrize("end", [None, "<|new|>"])
def test_a_tokenizer_without_an_eos_of_the_model_is_refused(end: str | None, llama_path: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama_path)
    tokenizer.add_tokens("<|new|>")
    tokenizer.eos_token = end
    model = AutoModelForCausalLM.from_pretrained(llama_path)
    model.generation_config.eos_token_id = None
    new_id = None if end is None else tokenizer.eos_token_id
    args = own_config(ReinforceConfig, tmp_path)
    with pytest.raises(ValueError, match=rf"EOS id must be in the model's vocabulary of \d+, got {new_id}\. No"):
        ReinforceTrainer(model, share_of_letters, args, rows(), processing_class=tokenizer)


def test_rewards_read_special_tokens_that_are_words_of_the_task(llama_path: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama_path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<row>"]})
    model = AutoModelForCausalLM.from_pretrained(llama_path)
    model.resize_token_embeddings(len(tokenizer))
    pairs: list[tuple[str, list[int]]] = []

    def reward(completions: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        pairs.extend(zip(completions, completion_ids, strict=True))
        return [float(ids[0]) for ids in completion_ids]

    args = own_config(ReinforceConfig, tmp_path, visible_tokens=["<row>"])
    ReinforceTrainer(model, reward, args, rows(), processing_class=tokenizer).train()
    row = tokenizer.convert_tokens_to_ids("<row>")
    shown = [text.count("<row>") for text, _ in pairs]
    assert shown == [ids.count(row) for _, ids in pairs]
    assert sum(shown) > 0


def test_an_average_of_the_weights_is_of_a_policy_without_a_critic(llama_path: str, tmp_path: Path) -> None:
    average = BEMACallback(update_freq=1, update_after=0, device="cpu")
    with pytest.raises(ValueError, match="`callbacks` must have no BEMACallback with a critic that is trained"):
        make_trainer("ppo", llama_path, tmp_path, critic="shared", callbacks=[average]).train()
    make_trainer("ppo", llama_path, tmp_path, callbacks=[average]).train()
    assert (tmp_path / "bema" / "config.json").is_file()


def test_each_held_out_set_has_its_own_metrics(llama_path: str, tmp_path: Path) -> None:
    stream = IterableDataset.from_generator(lambda: iter([{"prompt": "a"}]))
    trainer = make_trainer(
        "reinforce",
        llama_path,
        tmp_path,
        eval_dataset={"news": rows(), "old_news": stream},
        held_out_metrics={"news": lambda policy: {"x": 1.0}, "old_news": lambda policy: {"x": 2.0}},
    )
    metrics = trainer.evaluate()
    assert (metrics["eval_news_x"], metrics["eval_old_news_x"]) == (1.0, 2.0)
    with_both = make_trainer(
        "reinforce",
        llama_path,
        tmp_path,
        eval_dataset={"news": rows(), "old_news": rows()},
        held_out_metrics={"news": lambda policy: {"x": 1.0}},
    ).evaluate()
    assert with_both["eval_news_x"] == 1.0
    assert with_both["eval_old_news_reward"] > 0


# -- datasets ---------------------------------------------------------------------------------------------------------


def test_a_dataset_may_make_its_prompts_when_they_are_read(llama_path: str, tmp_path: Path) -> None:
    lazy = Dataset.from_dict({"raw": PROMPTS}).with_transform(
        lambda batch: {"prompt": batch["raw"], "own": batch["raw"]}
    )

    def reward(completions: list[str], own: list[str], **_: Any) -> list[float]:
        return [float(len(text)) + len(word) for text, word in zip(completions, own, strict=True)]

    assert make_trainer("reinforce", llama_path, tmp_path, train_dataset=lazy, reward=reward).train().global_step == 2
    with pytest.raises(ValueError, match="must have the column 'other', which the reward"):
        make_trainer("ppo", llama_path, tmp_path, train_dataset=lazy, reward=lambda other, **_: [])
    plain = Dataset.from_dict({"prompt": PROMPTS, "own": PROMPTS})
    with pytest.raises(ValueError, match=r"only \['prompt'\]. `remove_unused_columns` removes the others"):
        make_trainer("ppo", llama_path, tmp_path, train_dataset=plain, reward=reward, remove_unused_columns=True)


def test_held_out_rows_that_are_none_are_refused(gpt2_path: str, tmp_path: Path) -> None:
    for rows, name in (([], "eval_dataset"), ({"own": Dataset.from_dict({"prompt": []})}, "own")):
        with pytest.raises(ValueError, match=f"`{name}` must have at least 1 row, got 0"):
            make_trainer("ppo", gpt2_path, tmp_path, eval_dataset=rows)


def test_a_prompt_over_the_context_is_named_wherever_it_comes_from(gpt2_path: str, tmp_path: Path) -> None:
    long = [{"prompt": "a " * 60}] * 8
    part = re.escape("The prompt of row 0 of eval_dataset has 60 tokens, which makes 68")
    with pytest.raises(ValueError, match=part):
        make_trainer("ppo", gpt2_path, tmp_path, eval_dataset=long)
    with pytest.raises(ValueError, match=part.replace("eval_dataset", "own")):
        make_trainer("ppo", gpt2_path, tmp_path, eval_dataset={"own": long})
    stream = IterableDataset.from_generator(lambda: iter(long))
    with pytest.raises(ValueError, match=part.replace("eval_dataset", "this\\ rollout")):
        make_trainer("ppo", gpt2_path, tmp_path, train_dataset=stream).train()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_stream_is_resumed_in_its_second_epoch(algorithm: str, llama_path: str, tmp_path: Path) -> None:
    def trained(folder: str, checkpoint: str | None = None) -> PolicyGradientTrainer:
        stream = IterableDataset.from_generator(lambda: ({"prompt": prompt} for prompt in PROMPTS))
        options = {"max_steps": 9, "save_strategy": "steps", "save_steps": 5, "num_iterations": 1}
        trainer = make_trainer(algorithm, llama_path, tmp_path / folder, train_dataset=stream, **options)
        trainer.train(checkpoint)
        return trainer

    straight = trained("straight")
    resumed = trained("resumed", str(tmp_path / "straight" / "checkpoint-5"))
    for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert straight.state.epoch == resumed.state.epoch


# -- generation and logs ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_continuous_batching_leaves_weights_and_mode_as_they_were(llama_path: str, tmp_path: Path) -> None:
    trainer = make_trainer(
        "ppo",
        llama_path,
        tmp_path,
        use_transformers_paged=True,
        transformers_continuous_batching_config={"num_blocks": 64, "max_batch_tokens": 64, "block_size": 16},
        bf16=True,
        max_steps=1,
        eval_dataset=rows(),
        eval_strategy="steps",
        eval_steps=1,
    )
    assert trainer.args.use_transformers_continuous_batching and trainer.continuous_batching_config.num_blocks == 64
    trainer.train()
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
    assert "eval_reward" in trainer.state.log_history[1]
    logged = trainer.state.log_history[0]  # bfloat16 in both, by other kernels
    assert logged["sampling/importance_sampling_ratio/mean"] == pytest.approx(1.0, abs=0.1)
    assert 0 < logged["sampling/sampling_logp_difference/max"] < 0.2


def test_tf32_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tf32 requires Ampere"):
        own_config(ReinforceConfig, tmp_path, tf32=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_clipping_is_logged_below_and_above(algorithm: str, llama_path: str, tmp_path: Path) -> None:
    trainer = make_trainer(algorithm, llama_path, tmp_path, num_iterations=2, learning_rate=0.05, epsilon=0.01)
    trainer.train()
    first, second = (entry for entry in trainer.state.log_history if "clip_ratio/low_mean" in entry)
    names = ["low_mean", "low_min", "high_mean", "high_max", "region_mean"]
    assert [first[f"clip_ratio/{name}"] for name in names] == [0] * 5
    low, low_min, high, high_max, region = (second[f"clip_ratio/{name}"] for name in names)
    assert region == pytest.approx(low + high) and region > 0
    assert low_min <= low and high <= high_max


@pytest.mark.parametrize("num_iterations", [1, 2])
def test_a_share_of_one_means_that_no_prompt_has_completions_of_different_rewards(
    num_iterations: int, llama_path: str, tmp_path: Path
) -> None:
    def length_of_prompt(prompts: list[str], **_: Any) -> list[float]:
        return [float(len(prompt)) for prompt in prompts]

    trainer = make_trainer("reinforce", llama_path, tmp_path, reward=length_of_prompt, num_iterations=num_iterations)
    trainer.train()
    assert trainer.state.log_history[0]["frac_reward_zero_std"] == 1


def test_images_are_refused_where_completions_would_be_scored_without_them(llama_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("reinforce", llama_path, tmp_path)
    with pytest.raises(ValueError, match="The prompts of this rollout must have no images, got some"):
        trainer._generate_single_turn([[5]], [["image"]], {})
    with pytest.raises(ValueError, match="`train_dataset` must not have a column 'images'"):
        make_trainer("ppo", llama_path, tmp_path, train_dataset=Dataset.from_list([{"prompt": "a", "images": []}] * 8))


def test_a_trainer_turns_off_the_attention_that_has_gradients_of_nan(llama_path: str, tmp_path: Path) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    make_trainer("reinforce", llama_path, tmp_path)
    assert torch.backends.cuda.cudnn_sdp_enabled() is False


@pytest.mark.parametrize("use", [True, False])
def test_graphs_are_turned_off_for_the_policy_wherever_it_decodes(use: bool, llama_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("reinforce", llama_path, tmp_path, use_cuda_graphs=use)
    with trainer.gathered_policy() as policy:
        assert policy.use_cuda_graphs is use
