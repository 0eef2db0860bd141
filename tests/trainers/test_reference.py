"""The reference that a user names: the model of a first training, or a teacher of another shape."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from tiny import WORDS, tiny_gpt2, tiny_llama, tiny_tokenizer
from training import ALGORITHMS, PROMPTS, make_trainer, one_rollout
from transformers import AutoModelForCausalLM

from lmrl.trainers import Rollout

EOS = WORDS.index("<eos>")


def trained(folder: Path, start: str, **overrides: Any) -> str:
    """Returns the folder of a model that has been trained for two steps, far enough to be another one."""
    trainer = make_trainer("reinforce", start, folder, learning_rate=5e-2, beta=0.0, **overrides)
    trainer.train()
    trainer.save_model()
    return str(folder)


def log_probability(model: torch.nn.Module, prompt: torch.Tensor, completion: torch.Tensor) -> float:
    """Returns that of a complete completion, by plain transformers and without padding."""
    with torch.no_grad():
        log_probs = model(torch.cat([prompt, completion])[None]).logits[0].log_softmax(-1)
    return log_probs[len(prompt) - 1 : -1].gather(1, completion[:, None]).sum().item()


def kl_of(rollout: Rollout, policy: torch.nn.Module, reference: torch.nn.Module) -> float:
    """Returns the mean log-ratio of the completions of a rollout."""
    ratios = []
    for row in range(len(rollout.prompt_ids)):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row].bool()]
        completion = rollout.completion_ids[row][rollout.completion_mask[row].bool()]
        ratios.append(log_probability(policy, prompt, completion) - log_probability(reference, prompt, completion))
    return sum(ratios) / len(ratios)


def merged(trainer: Any, start: str, adapter: str) -> torch.nn.Module:
    """Returns the plain model that a GPT-2 is with an adapter."""
    plain = AutoModelForCausalLM.from_pretrained(start).eval()
    for name, layer in trainer.model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            added = layer.lora_B[adapter].weight @ layer.lora_A[adapter].weight * layer.scaling[adapter]
            plain.get_submodule(name).weight.data += added.T
    return plain


def logged_kl(trainer: Any) -> float:
    return trainer._metrics["train"]["kl_per_sequence"][0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_second_training_is_held_to_the_model_of_the_first_or_to_its_own_start(
    algorithm: str, gpt2_path: str, tmp_path: Path
) -> None:
    second = trained(tmp_path / "first", gpt2_path)
    options = {"num_iterations": 2, "per_device_train_batch_size": 16}
    kept = make_trainer(algorithm, second, tmp_path, reference_model_name_or_path=gpt2_path, **options)
    rollout = one_rollout(kept)
    policy, first = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (second, gpt2_path))
    assert logged_kl(kept) == pytest.approx(kl_of(rollout, policy, first), rel=1e-4)
    assert logged_kl(kept) > 0.1
    kept.train()
    ids = torch.tensor([[6, 7, 8, 9]])
    assert torch.allclose(kept.ref_model(input_ids=ids).logits, first(ids).logits, atol=1e-5)  # it was not trained

    new = make_trainer(algorithm, second, tmp_path, **options)
    one_rollout(new)
    assert logged_kl(new) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_adapter_is_held_to_the_model_that_is_named_and_not_to_its_base(
    algorithm: str, gpt2_path: str, llama_path: str, tmp_path: Path
) -> None:
    lora = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM")
    trainer = make_trainer(
        algorithm, gpt2_path, tmp_path, peft_config=lora, num_iterations=2, reference_model_name_or_path=llama_path
    )
    rollout = one_rollout(trainer)
    policy, teacher = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (gpt2_path, llama_path))
    assert logged_kl(trainer) == pytest.approx(kl_of(rollout, policy, teacher), rel=1e-4)
    assert trainer.train().global_step == 2


def test_an_adapter_may_be_the_reference(gpt2_path: str, tmp_path: Path) -> None:
    lora = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM")
    adapter = trained(tmp_path / "adapter", gpt2_path, peft_config=lora)
    trainer = make_trainer("ppo", gpt2_path, tmp_path, reference_model_name_or_path=adapter)
    ids = torch.tensor([[6, 7, 8, 9]])
    expected = AutoPeftModelForCausalLM.from_pretrained(adapter).eval()(ids).logits
    assert torch.allclose(trainer.ref_model(input_ids=ids).logits, expected, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in trainer.ref_model.parameters())


@torch.no_grad()
def exact_kl(policy: torch.nn.Module, teacher: torch.nn.Module) -> float:
    """Returns KL(policy || teacher) of completions of two tokens, summed over all of them, averaged over prompts."""
    total = 0.0
    for prompt in PROMPTS:
        ids = torch.tensor([WORDS.index(word) for word in prompt.split()])
        both = torch.cat([ids.expand(len(WORDS), -1), torch.arange(len(WORDS))[:, None]], dim=1)
        log_policy, log_teacher = (model(both).logits.double().log_softmax(-1) for model in (policy, teacher))
        first, then = ((log_policy.exp() * (log_policy - log_teacher)).sum(-1)[:, place] for place in (-2, -1))
        then[EOS] = 0.0  # the completion has ended
        total += (first[0] + (log_policy[0, -2].exp() * then).sum()).item()
    return total / len(PROMPTS)


def nothing(completions: list[str], **_: Any) -> list[float]:
    """Returns the same reward for all."""
    return [0.0] * len(completions)


BY_TOKEN: dict[str, dict[str, Any]] = {
    "reinforce": {"kl_scope": "token", "loss_level": "token"},
    "ppo": {"kl_scope": "token"},
}


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("reinforce", {"startup_checks": False}),
        ("ppo", {"startup_checks": False}),
        ("reinforce", BY_TOKEN["reinforce"]),
        ("ppo", BY_TOKEN["ppo"]),
    ],
)
def test_a_teacher_of_another_architecture_is_distilled_where_the_reward_is_constant(
    algorithm: str, options: dict[str, Any], gpt2_path: str, tmp_path: Path
) -> None:
    teacher_path = tiny_llama(tmp_path / "teacher", hidden_size=48, num_hidden_layers=3)
    trainer = make_trainer(
        algorithm,
        gpt2_path,
        tmp_path / "student",
        reward=nothing,
        reference_model_name_or_path=teacher_path,
        beta=1.0,
        max_completion_length=2,
        per_device_train_batch_size=64,
        num_generations=8,
        learning_rate=3e-3,
        max_steps=80,
        **options,
    )
    teacher = AutoModelForCausalLM.from_pretrained(teacher_path).eval()
    before = exact_kl(trainer.model.eval(), teacher)
    trainer.train()
    after = exact_kl(trainer.model.eval(), teacher)
    assert after < before / 2


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("reinforce", {}),
        ("reinforce", {"scale_rewards": "group"}),
        ("reinforce", {"kl_estimator": "exact"}),
        ("ppo", {"normalize_advantages": False}),
        ("ppo", {"normalize_advantages": False, "kl_estimator": "exact"}),
    ],
)
def test_by_the_kl_alone_the_advantage_of_a_token_is_its_own_kl_and_critics_learn_the_reward(
    algorithm: str, options: dict[str, Any], gpt2_path: str, llama_path: str, tmp_path: Path
) -> None:
    options = {"num_iterations": 2, "beta": 0.5, "reference_model_name_or_path": llama_path, **options}
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, reward=nothing, **BY_TOKEN[algorithm], **options)
    rollout = one_rollout(trainer)
    mask = rollout.completion_mask
    in_mean = rollout.exact_kl if "kl_estimator" in options else 0.0  # over the tokens that may be drawn in the state
    expected = -0.5 * (rollout.old_log_probs - rollout.ref_log_probs - in_mean) * mask
    assert torch.allclose(rollout.advantages, expected, atol=1e-6)
    assert rollout.returns is None or not rollout.returns.any()

    rollout.completion_mask[0, 2:] = 0
    padding = rollout.completion_mask == 0
    assert padding.any() and (rollout.advantages[0, 2:] != 0).any()
    names = ("old_log_probs", "ref_log_probs", *(["exact_kl"] if "kl_estimator" in options else []))
    poison = {name: getattr(rollout, name).masked_fill(padding, float("nan")) for name in names}
    if algorithm == "ppo":  # the states that the fitted critic reads, where the credit has put its values
        poison["old_values"] = torch.zeros(*mask.shape, trainer.model.config.n_embd)
    again = trainer._with_credit(replace(rollout, **poison)).advantages
    assert torch.allclose(again, expected * rollout.completion_mask, atol=1e-6)


def test_equal_rewards_pass_where_the_kl_to_a_teacher_teaches_each_token(
    gpt2_path: str, llama_path: str, tmp_path: Path
) -> None:
    def roll(**options: Any) -> Rollout:
        return one_rollout(make_trainer("reinforce", gpt2_path, tmp_path, reward=nothing, **options))

    roll(reference_model_name_or_path=llama_path, **BY_TOKEN["reinforce"])
    for options in (
        {"reference_model_name_or_path": llama_path},
        BY_TOKEN["reinforce"],
        {"reference_model_name_or_path": llama_path, "drop_equal_groups": True, **BY_TOKEN["reinforce"]},
    ):
        with pytest.raises(ValueError, match=r"All 8 completions of the first rollout got the reward 0, so there is"):
            roll(**options)


def test_a_teacher_may_have_more_rows_than_its_tokenizer_has_words(gpt2_path: str, tmp_path: Path) -> None:
    padded = tiny_llama(tmp_path / "padded", vocab_size=72)
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, reference_model_name_or_path=padded)
    assert trainer.train().global_step == 2


def test_a_reference_that_reads_other_tokens_is_refused(gpt2_path: str, tmp_path: Path) -> None:
    def make(name: str, **options: Any) -> None:
        make_trainer("ppo", gpt2_path, tmp_path, reference_model_name_or_path=name, **options)

    few = tiny_gpt2(tmp_path / "few", vocab_size=63)
    with pytest.raises(ValueError, match=r"few' has 63 tokens and the policy 64\. The KL of a token needs the same"):
        make(few)
    bare = tiny_gpt2(tmp_path / "bare", vocab_size=65)
    for file in (tmp_path / "bare").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"bare' has 65 tokens and the policy 64"):
        make(bare)

    other = tiny_gpt2(tmp_path / "other")
    tokenizer = tiny_tokenizer()
    words = (tmp_path / "other" / "tokenizer.json").read_text().replace('"w21"', '"w99"')
    (tmp_path / "other" / "tokenizer.json").write_text(words)
    assert "w21" in tokenizer.get_vocab()
    with pytest.raises(ValueError, match=r"other' differ in 2 tokens, such as 'w\d\d' with the id 63\. The KL"):
        make(other)


def test_a_reference_that_could_not_serve_is_refused(gpt2_path: str, llama_path: str, tmp_path: Path) -> None:
    def make(name: str | None, **options: Any) -> None:
        make_trainer("reinforce", gpt2_path, tmp_path, reference_model_name_or_path=name, **options)

    with pytest.raises(ValueError, match=r"`reference_model_name_or_path` must be None with beta=0, got '.*'\. It is"):
        make(llama_path, beta=0.0)
    with pytest.raises(ValueError, match=r"must be a hub id or an existing folder, got '\./nowhere'"):
        make("./nowhere")
    short = tiny_gpt2(tmp_path / "short", n_positions=10)
    with pytest.raises(ValueError, match=r"makes 15, more than the reference's context of 10\. Lower"):
        make(short)
    with pytest.raises(ValueError, match=r"`sync_ref_model` must be False for a reference of other shapes than the"):
        make(llama_path, sync_ref_model=True)
    make(tiny_gpt2(tmp_path / "same", seed=1), sync_ref_model=True)
    lora = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM")
    biases = LoraConfig(r=4, target_modules=["c_attn"], task_type="CAUSAL_LM", bias="all")
    for name, adapter in ((gpt2_path, lora), (None, biases)):
        with pytest.raises(ValueError, match=r"`sync_ref_model` must be False for an adapter whose reference is an"):
            make(name, sync_ref_model=True, peft_config=adapter)


def test_a_reference_follows_a_policy_with_a_critic(gpt2_path: str, tmp_path: Path) -> None:
    options = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 1.0}
    trainer = make_trainer("ppo", gpt2_path, tmp_path, max_steps=1, learning_rate=1e-2, **options)
    start = trainer.ref_model.transformer.wte.weight.clone()
    trainer.train()
    weights = dict(trainer.model.named_parameters())
    for name, weight in trainer.ref_model.named_parameters():
        assert torch.equal(weight, weights[name]), name
    assert not torch.equal(trainer.ref_model.transformer.wte.weight, start)


@pytest.mark.parametrize(("algorithm", "alpha"), [("reinforce", 0.25), ("ppo", 1.0)])
def test_the_reference_of_an_adapter_follows_it(algorithm: str, alpha: float, gpt2_path: str, tmp_path: Path) -> None:
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    options = {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": alpha, "num_iterations": 2}
    trainer = make_trainer(
        algorithm, gpt2_path, tmp_path, peft_config=lora, max_steps=1, learning_rate=1e-2, **options
    )
    layer = trainer.model.base_model.model.transformer.h[0].attn.c_attn
    start = layer.lora_A["default"].weight.clone()
    one_rollout(trainer)
    assert logged_kl(trainer) == pytest.approx(0, abs=1e-6)
    trainer.train()
    # It began as the adapter, whose B is 0 before training, and a share of the adapter was mixed in.
    new = (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    mixed = (layer.lora_A["ref"].weight, layer.lora_B["ref"].weight)
    assert torch.allclose(mixed[0], (1 - alpha) * start + alpha * new[0], atol=1e-7)
    assert torch.allclose(mixed[1], alpha * new[1], atol=1e-7)
    assert mixed[1].abs().max() > 1e-4
    # What is added to the weights is no mixture of what was: that would be `alpha * new[1] @ new[0]`, as B was 0.
    added = alpha * new[1] @ new[0] - alpha * (1 - alpha) * new[1] @ (new[0] - start)
    assert torch.allclose(mixed[1] @ mixed[0], added, atol=1e-7)
    assert not any(".ref." in name for name, weight in trainer.model.named_parameters() if weight.requires_grad)
    rollout = one_rollout(trainer)
    expected = kl_of(rollout, merged(trainer, gpt2_path, "default"), merged(trainer, gpt2_path, "ref"))
    assert logged_kl(trainer) == pytest.approx(expected, abs=1e-5)
    trainer.save_model()
    assert not (tmp_path / "ref").exists()
    assert not any("ref" in name.split(".") for name in load_file(tmp_path / "adapter_model.safetensors"))
    is_policy = all(torch.equal(one, other) for one, other in zip(mixed, new, strict=True))  # to the bit
    assert (is_policy, abs(expected) > 1e-4) == ((True, False) if alpha == 1 else (False, True))
