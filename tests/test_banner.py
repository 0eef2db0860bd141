"""What a run prints before its first slow step: its lines for tiny runs, and what is likely wrong."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig
from training import make_trainer

from lmrl.experiment.banner import number_text, run_facts, visible
from lmrl.experiment.notes import precision_note, run_notes
from lmrl.utils import aligned_lines

ROWS = [{"prompt": f"a b {name}", "references": ["c d", "e"]} for name in "abcdefgh"]
RUN = {"train_dataset": Dataset.from_list(ROWS), "max_steps": 6, "max_completion_length": 8}


def lines_of(trainer: Any, folder: Path, **given: Any) -> dict[str, str]:
    held_out = Dataset.from_list(ROWS[:3])
    return run_facts(trainer, trainer.train_dataset, held_out, {"model_name_or_path": "tiny", **given})


def test_the_lines_of_a_run_of_ppo(gpt2_path: str, tmp_path: Path) -> None:
    options = {"num_iterations": 2, "eval_strategy": "steps", "eval_steps": 5, "eval_dataset": RUN["train_dataset"]}
    trainer = make_trainer("ppo", gpt2_path, tmp_path, **RUN, **options, num_generations=4, reward_weights=[0.5])
    assert aligned_lines(lines_of(trainer, tmp_path, eval_subset=2), width=300) == (
        "model          tiny (GPT2LMHeadModel): 29.6k parameters, all trained\n"
        "device         cpu; weights in float32, computed in float32\n"
        "reference      a frozen copy of the policy; KL penalty beta 0.05\n"
        "critic         a regression on the policy's states, fitted for each rollout on those before it\n"
        "rewards        0.5 share_of_letters\n"
        "each step      8 = 2 prompts x 4 completions, trained on in 2 steps\n"
        "completions    at most 8 tokens, ended by <eos>; temperature 1\n"
        "training       6 steps, 6 prompts = 0.75 epochs of 8; learning rate 0.001, constant\n"
        "held out       3 rows, before and after training, 2 of them every 5 steps\n"
        "first prompt   a b a\n"
        "its reference  c d (1 of 2)\n"
        f"output         {tmp_path}; no checkpoints (--save_strategy steps --save_steps 10 keeps some)"
    )


def test_the_lines_of_a_run_with_an_adapter(llama_path: str, tmp_path: Path) -> None:
    options = {
        "peft_config": LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        "save_strategy": "epoch",
    }
    batches = {"per_device_train_batch_size": 2, "steps_per_generation": 4, "num_generations": 4, "kl_target": 3.0}
    trainer = make_trainer("reinforce", llama_path, tmp_path, **{**RUN, "max_steps": -1}, **options, **batches)
    lines = lines_of(trainer, tmp_path)
    assert (
        lines["model"] == "tiny (LlamaForCausalLM): 23.2k parameters, 512 trained (2.2 %) (LoRA of rank 4 on q_proj)"
    )
    assert lines["reference"] == "the policy with its adapter off; KL penalty beta 0.05, adapted to a KL of 3 nats"
    assert lines["critic"] == "none; the baseline is leave_one_out"
    assert lines["each step"] == "2 of a rollout of 8 = 2 prompts x 4 completions, trained on in 4 steps"
    assert lines["output"] == f"{tmp_path}; a checkpoint every epoch"
    trainer.train()  # 3 epochs
    assert lines["training"].startswith(f"{trainer.state.max_steps} steps, 24 prompts = 3 epochs of 8; ")


def test_only_a_run_that_goes_on_names_a_checkpoint(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, **RUN, save_strategy="steps", save_steps=6)
    for request in (None, "no", "false", "latest"):
        trainer.args.resume_from_checkpoint = request
        assert "checkpoint" not in lines_of(trainer, tmp_path)["training"]
    (tmp_path / "checkpoint-6").mkdir()
    assert lines_of(trainer, tmp_path)["training"].endswith("constant; goes on from a checkpoint (latest)")


def test_a_critic_that_is_trained_has_parameters_and_one_that_is_fitted_has_none(
    gpt2_path: str, tmp_path: Path
) -> None:
    shared = lines_of(make_trainer("ppo", gpt2_path, tmp_path, **RUN, critic="shared"), tmp_path)
    assert shared["critic"] == "a head on the policy's hidden states: 1.2k parameters, learning rate 0.002"
    fitted = lines_of(make_trainer("reinforce", gpt2_path, tmp_path, **RUN, baseline="critic"), tmp_path)
    assert fitted["critic"] == "a regression on the policy's states, fitted for each rollout on those before it"


def test_a_chat_is_shown_as_it_is_rendered(gpt2_path: str, tmp_path: Path) -> None:
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": f"a {name}"}]} for name in "abcdefgh"])
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, **{**RUN, "train_dataset": rows}, beta=0.0)
    lines = lines_of(trainer, tmp_path)
    assert lines["first prompt"] == "user a a assistant"
    assert lines["reference"] == "none, as beta is 0" and "its reference" not in lines


def test_a_turn_that_does_not_end_completions_is_noted(gpt2_path: str, tmp_path: Path) -> None:
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": f"a {name}"}]} for name in "abcdefgh"])
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, **{**RUN, "train_dataset": rows}, bf16=True)
    assert run_notes(trainer, rows) == []
    template = trainer.processing_class.chat_template
    for end, notes in (("<eos>", 0), ("<unk>", 1)):
        turn = "{{ message['content'] }} " + f"{{% if message['role'] == 'assistant' %}}{end} {{% endif %}}"
        trainer.processing_class.chat_template = template.replace("{{ message['content'] }} ", turn)
        found = run_notes(trainer, rows)
        assert len(found) == notes and all("ends a turn with <unk>, which is no EOS" in note for note in found)


def test_references_longer_than_completions_are_noted(gpt2_path: str, tmp_path: Path) -> None:
    long = Dataset.from_list(
        [{"prompt": "a", "references": ["a b c d e f g h i j"]}] * 5 + [{"prompt": "a", "references": ["b"]}] * 3
    )
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, **{**RUN, "train_dataset": long}, bf16=True)
    (note,) = run_notes(trainer, long)
    assert note.startswith("5 of the first 8 references have 8 tokens or more, and completions at most 8: raise ")


def test_a_cpu_that_is_faster_in_bfloat16_is_noted() -> None:
    sentence = "This CPU multiplies bfloat16 2.5 times as fast as float32: try --bf16 true."
    assert precision_note("cpu", False, "float32", speedup=2.5) == sentence
    assert precision_note("cpu", False, "float32", speedup=1.1) == ""
    for device, bf16, dtype in (("cuda", False, "float32"), ("cpu", True, "float32"), ("cpu", False, "bfloat16")):
        assert precision_note(device, bf16, dtype, speedup=9.0) == ""
    assert precision_note("cpu", False, "float32") in ("", *(sentence.replace("2.5", f"{n / 10}") for n in range(999)))


@pytest.mark.parametrize(
    ("number", "text"),
    [(950, "950"), (12_345, "12.3k"), (494_464, "0.49M"), (134_515_008, "134.5M"), (1_235_814_400, "1.24B")],
)
def test_numbers_are_short(number: int, text: str) -> None:
    assert number_text(number) == text


def test_a_long_prompt_is_shortened_in_the_middle_and_in_one_line() -> None:
    shown = visible("begin\n" + "x" * 500 + "\tend")
    assert len(shown) == 160 and shown.startswith("begin\\nxx") and " ... " in shown and shown.endswith("x\\tend")


def test_names_and_texts_stand_in_two_columns() -> None:
    assert aligned_lines({"a": "one two three", "name": ""}, width=14) == "a     one two\n      three\nname"
