"""The commands that use what was trained: lmrl merge, generate and chat, on the run of a recipe with LoRA."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from tiny import tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmrl.cli.talk import chat_flags, generate_flags, merge_flags

Command = Callable[..., tuple[int, str, str]]

RUN = (
    *("--max_steps", "1", "--per_device_train_batch_size", "8", "--report_to", "none", "--disable_tqdm", "true"),
    *("--learning_rate", "1e-1", "--use_peft", "true", "--lora_r", "4", "--lora_target_modules", "all-linear"),
    *("--max_completion_length", "6", "--eval_rows", "4", "--save_strategy", "no", "--dataset_name", "rows.jsonl"),
)
TEMPLATES = {"template": ("--prompt_template", "a {name} c"), "chat": ("--system_prompt", "w1 w2")}


@pytest.fixture
def trained(recipe: Command, llama_path: str, tmp_path: Path) -> Callable[[str], Path]:
    """Returns a function that trains an adapter for a step, on prompts of a template or on chats."""
    rows = [{"name": a, "prompt": f"{a} d", "references": "b c d e"} for a in "abcdefghijklmnop"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def train(kind: str) -> Path:
        out = ("--model_name_or_path", llama_path, "--output_dir", "run")
        status, _, err = recipe("reinforce_gen", *RUN, *TEMPLATES[kind], *out)
        assert status == 0, err
        return tmp_path / "run"

    return train


def greedy(model: torch.nn.Module, prompt: str | list[dict[str, str]], new_tokens: int = 6) -> str:
    """Returns what plain transformers generates."""
    tokenizer = tiny_tokenizer()
    ids = (
        tokenizer(prompt, return_tensors="pt")["input_ids"]
        if isinstance(prompt, str)
        else tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    )
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": new_tokens}
    return tokenizer.decode(model.eval().generate(ids, **options)[0, ids.shape[1] :], skip_special_tokens=True)


def test_merge_writes_a_plain_model_and_generate_completes_in_the_terms_of_the_run(
    command: Command, trained: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("template")
    status, out, err = command("merge", run, "plain")
    assert (status, out) == (0, "The model is in plain\n"), err
    plain, loading = AutoModelForCausalLM.from_pretrained("plain", output_loading_info=True)
    assert not any(loading.values()), loading
    ids = torch.tensor([[6, 7, 8]])
    adapter = AutoPeftModelForCausalLM.from_pretrained(run).eval()
    assert torch.allclose(plain.eval()(ids).logits, adapter(ids).logits, atol=1e-4)
    assert AutoTokenizer.from_pretrained("plain")("a b")["input_ids"] == tiny_tokenizer()("a b")["input_ids"]

    expected = [f"{greedy(plain, f'a {name} c')}\n" for name in ("b", "d")]
    for model in (run, "plain"):  # an adapter and the merged model, with the template and the length of the run
        assert command("generate", model, "b", "--greedy")[:2] == (0, expected[0])
    status, out, err = command("generate", "--greedy", run, "b", '{"name": "d"}')
    assert (status, out, err) == (0, "".join(expected), "> a b c\n> a d c\n")
    (tmp_path / "prompts.txt").write_text("\ufeffb\n\nd\n", encoding="utf-8")  # as some editors mark UTF-8
    assert command("generate", run, "--prompts", "prompts.txt", "--greedy")[1] == "".join(expected)
    monkeypatch.setattr("sys.stdin", io.StringIO("b\nd\n"))
    assert command("generate", run, "--greedy")[1] == "".join(expected)
    given = ("--prompt_template", "", "--max_new_tokens", "3")
    assert command("generate", run, "b", "--greedy", *given)[1] == f"{greedy(plain, 'b', 3)}\n"
    sampled = [command("generate", run, "b", "--seed", seed, "--temperature", "2")[1] for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]

    status, _, err = command("merge", run, "plain")
    assert (status, err) == (2, "error: The folder to write must be new or empty, got 'plain'. Add --overwrite.\n")
    assert command("merge", run, "plain", "--overwrite", "--dtype", "bfloat16")[0] == 0
    assert AutoModelForCausalLM.from_pretrained("plain").dtype == torch.bfloat16
    assert command("merge", "plain", "again", "--dtype", "float32")[0] == 0  # without an adapter, a copy
    assert AutoModelForCausalLM.from_pretrained("again").dtype == torch.float32
    status, _, err = command("generate", "rum", "b")
    wanted = "no tokenizer could be loaded (there is no folder 'rum'. Did you mean `run`? From the hub: "
    assert status == 2 and wanted in err


def test_chat_completes_each_message_with_those_before_it(
    command: Command, trained: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("chat")
    model = AutoPeftModelForCausalLM.from_pretrained(run)
    messages = [{"role": "system", "content": "w1 w2"}, {"role": "user", "content": "a b"}]
    first = greedy(model, messages)
    assert command("generate", run, "a b", "--greedy")[:2] == (0, f"{first}\n")
    further = [{"role": "assistant", "content": first}, {"role": "user", "content": "c"}]
    second = greedy(model, messages + further)
    monkeypatch.setattr("sys.stdin", io.StringIO("a b\nc\n/new\na b\n"))
    assert command("chat", run, "--greedy")[:2] == (0, f"{first}\n{second}\n{first}\n")

    without = greedy(model, messages[1:])
    assert command("generate", run, "a b", "--greedy", "--system_prompt", "")[1] == f"{without}\n"

    monkeypatch.setattr("sys.stdin", io.StringIO("a " * 64 + "\n"))
    status, _, err = command("chat", run, "--greedy")
    assert (status, err.startswith("error: A prompt must leave room in the model's context of 64 tokens, got ")) == (
        2,
        True,
    )
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(run)
    (run / "chat_template.jinja").unlink(missing_ok=True)
    status, _, err = command("chat", run)
    assert (status, err.startswith(f"error: `lmrl chat` needs a chat template, and {str(run)!r} has none.")) == (
        2,
        True,
    )


def test_a_run_that_has_not_ended_names_its_newest_checkpoint(
    command: Command, llama_path: str, tmp_path: Path
) -> None:
    shutil.copytree(llama_path, tmp_path / "run" / "checkpoint-2")
    status, _, err = command("generate", tmp_path / "run", "a")
    assert (status, err.endswith(f"Did you mean `{tmp_path}/run/checkpoint-2`?\n")) == (2, True)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["merge", "run"], "`lmrl merge` must have a run and a new folder, got run."),
        (["merge", "run", "run"], "The folder to write must be another than that of the run, got 'run' for both."),
        (
            ["merge", "run", "new", "--dtype", "bfloat"],
            "`dtype` must be one of auto, bfloat16, float16, float32, got 'bfloat'. Did you mean `bfloat16`?",
        ),
        (["generate"], "`lmrl generate` must have a run, got none. Name its folder."),
        (
            ["generate", "run", "--prompts", "no.txt"],
            "`prompts` must be a file that can be read, got 'no.txt': No such file or directory.",
        ),
        (
            ["generate", "run", "--prompts", "latin.txt"],
            "`prompts` must be a file that can be read, got 'latin.txt': 'utf-8' codec can't decode byte 0xf6 in "
            "position 1: invalid start byte.",
        ),
        (
            ["generate", "run", "a", "--temperature", "0"],
            "`temperature` must be above 0, got 0.0. The most likely token: --greedy.",
        ),
        (["generate", "run", "a", "--gredy"], "Unknown argument `--gredy`. Did you mean `--greedy`?"),
        (["generate", "run", "a", "--max_new_tokens", "x"], "`max_new_tokens` must be an integer, got 'x'."),
        (["generate", "run", "a", "--max_new_tokens", "0"], "`max_new_tokens` must be at least 1, got 0."),
        (
            ["generate", "run", "a", "--greedy", "--temperature", "1"],
            "`greedy` must not be set with `temperature` or `seed`, got both. Leave out either.",
        ),
        (
            ["generate", "run", "a", "--prompt_template", "{x} {y}"],
            "A prompt must be a JSON object with x, y, the columns of the template '{x} {y}', got 'a'. Without the "
            "template: --prompt_template ''.",
        ),
        (
            ["generate", "run", '{"x": 1}', "--prompt_template", "{x} {y}"],
            "A prompt must be a JSON object with x, y, the columns of the template '{x} {y}', got '{\"x\": 1}'. "
            "Without the template: --prompt_template ''.",
        ),
        (
            ["generate", "run", "a", "--prompt_template", "{x"],
            "`prompt_template` must have fields such as {column}, got the malformed '{x' (expected '}' before end of "
            "string). Write {{ and }} for literal braces.",
        ),
        (
            ["merge", "run", "latin.txt", "--overwrite"],
            "The folder to write must be no file, got 'latin.txt'. Name another.",
        ),
        (["chat", "run", "a"], "`lmrl chat` must have a run, got run a. Name its folder."),
    ],
)
def test_a_wrong_call_is_one_line(
    argv: list[str], message: str, command: Command, llama_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(llama_path, tmp_path / "run")
    (tmp_path / "latin.txt").write_bytes("Wörter".encode("latin-1"))
    assert command(*argv) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize("name", ["merge", "generate", "chat"])
def test_each_command_has_its_help(name: str, command: Command) -> None:
    status, out, _ = command(name, "--help")
    assert (status, out.startswith(f"usage: lmrl {name} RUN")) == (0, True)
    values = vars({"merge": merge_flags, "generate": generate_flags, "chat": chat_flags}[name]().read([]))
    assert {*re.findall(r"^  --(\w+)", out, flags=re.MULTILINE)} == {*values} - {"folders", "words"}
