"""The arguments of the recipes: their values, their help, and one line for each mistake."""

import re
import subprocess
import sys
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from transformers import TrainingArguments
from trl import RLOOConfig

from lmrl.arguments import (
    CheckpointArguments,
    ComparisonArguments,
    DataArguments,
    EvaluationArguments,
    HeldOutArguments,
    LabelArguments,
    ModelArguments,
    PreferenceArguments,
    RewardArguments,
    ScoringArguments,
)
from lmrl.cli import parse, run
from lmrl.cli.help import _ADVANCED, _OF_COMPARISON
from lmrl.trainers import PPOConfig

ALL = (ModelArguments, DataArguments, RewardArguments, EvaluationArguments)


@dataclass
class Numbers:
    """Stands for a trainer's configuration."""

    learning_rate: float = field(default=1e-5, metadata={"help": "Step size."})
    max_steps: int = field(default=-1, metadata={"help": "Steps."})
    reward_weights: list[float] | None = field(default=None, metadata={"help": "Weights."})
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Trackers."})  # noqa: RUF036 (as TRL writes it)
    model_init_kwargs: dict | str | None = field(default=None, metadata={"help": "Passed on."})
    save_strategy: str = field(default="steps", metadata={"help": "When to save."})
    warmup: float | None = field(default=0.1, metadata={"help": "100% of nothing".replace("%", "%%")})
    bf16: bool | None = field(default=None, metadata={"help": "Precision."})


def written(folder: Path, text: str) -> str:
    """Returns the path of a new configuration file."""
    path = folder / "config.yaml"
    path.write_text(text)
    return str(path)


def test_without_arguments_everything_has_its_default() -> None:
    model, data, rewards, evaluation = parse(*ALL, argv=[])
    assert (model.model_name_or_path, model.lora_dropout) == (None, None)
    assert (data.dataset_name, data.dataset_train_split, data.long_prompts) == ("demo", "train", "error")
    assert rewards.rewards == ["bleu", "rougeL"]
    assert (evaluation.eval_do_sample, evaluation.eval_num_beams) == (False, 1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["c_attn"], ["c_attn"]),
        (["h.0.attn.c_attn"], ["h.0.attn.c_attn"]),
        (["c_attn", "c_proj"], ["c_attn", "c_proj"]),
        (["all-linear"], "all-linear"),
        ([".*attn"], ".*attn"),
    ],
)
def test_one_module_with_lora_is_a_name_and_not_a_pattern(given: list[str], expected: str | list[str]) -> None:
    model, *_ = parse(*ALL, argv=["--use_peft", "true", "--lora_target_modules", *given])
    assert model.lora_target_modules == expected


def test_products_with_weights_in_4_bits_are_computed_in_the_precision_of_training() -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    model, *_ = parse(*ALL, argv=["--load_in_4bit", "true", "--use_peft", "true"])
    precisions = [model.loading(bf16=bf16)["quantization_config"].bnb_4bit_compute_dtype for bf16 in (False, True)]
    assert precisions == [torch.float32, torch.bfloat16]
    assert model.loading(bf16=True)["dtype"] == "float32"


def test_yaml_values_have_the_types_of_the_fields(tmp_path: Path) -> None:
    text = (
        "learning_rate: 1e-4\nreward_weights: [1, 5e-1]\nreport_to: [tensorboard, wandb]\nwarmup: null\n"
        "model_init_kwargs: {revision: main}\nsave_strategy: no\nbf16: true\n"
    )
    (numbers,) = parse(Numbers, argv=["--config", written(tmp_path, text)])
    assert numbers == Numbers(1e-4, -1, [1.0, 0.5], ["tensorboard", "wandb"], {"revision": "main"}, "no", None, True)
    assert [type(weight) for weight in numbers.reward_weights] == [float, float]


def test_numbers_inside_of_mappings_are_numbers_and_texts_are_as_written(tmp_path: Path) -> None:
    text = "model_init_kwargs: {min_lr: 1e-6, a: 5E3, b: .5e+2, c: [1e-2], d: '1e-6', e: 1e, f: no}\n"
    (numbers,) = parse(Numbers, argv=["--config", written(tmp_path, text)])
    expected = {"min_lr": 1e-6, "a": 5000.0, "b": 50.0, "c": [0.01], "d": "1e-6", "e": "1e", "f": False}
    assert numbers.model_init_kwargs == expected
    text = "save_strategy: 1.10\nreport_to: [no, 0x1F, 2026-01-01, 1e3]\n"
    (numbers,) = parse(Numbers, argv=["--config", written(tmp_path, text)])
    assert (numbers.save_strategy, numbers.report_to) == ("1.10", ["no", "0x1F", "2026-01-01", "1e3"])
    (data,) = parse(LabelArguments, argv=["--config", written(tmp_path, "dataset_name: d\nclass_names: [no, yes]\n")])
    assert data.class_names == ["no", "yes"]
    text = "train_classifier: &shared {class_names: [no, 1.10]}\ndata: {<<: *shared, dataset_name: d}\n"
    (data,) = parse(LabelArguments, argv=["--config", written(tmp_path, text)])
    assert data.class_names == ["no", "1.10"]
    names = ["no", "5", "1.10", "2026-01-01", "1e3"]
    aliases = ", ".join(f"{name}: [a]" for name in names)
    text = f"rewards: [{{slot_coverage: {{aliases: {{slot: {{{aliases}}}}}}}}}]\n"
    (rewards,) = parse(RewardArguments, argv=["--config", written(tmp_path, text)])
    assert rewards.rewards == [{"slot_coverage": {"aliases": {"slot": {name: ["a"] for name in names}}}}]
    (rewards,) = parse(RewardArguments, argv=["--config", written(tmp_path, "rewards: [{clipped: {low: 1e-2}}]\n")])
    assert rewards.rewards == [{"clipped": {"low": 0.01}}]


def test_weights_of_the_demo_are_those_of_its_own_rewards() -> None:
    demo = Path(__file__).resolve().parents[1] / "recipes" / "configs" / "demo_ppo.yaml"
    for argv, weights in (
        (["--beta", "0.1"], [0.5, 0.5]),
        (["--rewards", "chrf"], None),
        (["--rewards", "chrf", "--reward_weights", "2"], [2.0]),
    ):
        *_, config = parse(*ALL, PPOConfig, argv=argv, demo=demo)
        assert config.reward_weights == weights


def test_a_field_that_is_no_argument_is_unknown_in_a_file_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown name `lora_task_type`"):
        parse(ModelArguments, argv=["--config", written(tmp_path, "lora_task_type: SEQ_CLS")])


@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]])
def test_the_command_line_overrides_the_file_in_any_order(tmp_path: Path, form: list[str]) -> None:
    config = [part.format(written(tmp_path, "max_steps: 3\nlearning_rate: 2.0")) for part in form]
    for argv in ([*config, "--max-steps=7"], ["--max_steps", "7", *config]):
        (numbers,) = parse(Numbers, argv=argv)
        assert (numbers.max_steps, numbers.learning_rate) == (7, 2.0)


def test_rewards_are_names_or_one_key_mappings_wherever_they_are_written(tmp_path: Path) -> None:
    wanted = ["bleu", {"length": {"target": 20}}]
    (line,) = parse(RewardArguments, argv=["--rewards", "bleu", '{"length": {"target": 20}}'])
    path = written(tmp_path, "rewards:\n- bleu\n- length: {target: 20}\n")
    (file,) = parse(RewardArguments, argv=["--config", path])
    assert line.rewards == file.rewards == wanted
    (one,) = parse(RewardArguments, argv=["--config", written(tmp_path, "rewards: chrf")])
    assert one.rewards == ["chrf"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learing_rate: 1", "unknown name `learing_rate`. Did you mean `learning_rate`?"),
        ("zzz: 1", "unknown name `zzz`. `--help all` prints all of them."),
        ("learning_rate: fast", "`learning_rate` must be a number, got 'fast'."),
        ("learning_rate: [1]", "`learning_rate` must be of type float, got [1]."),
        ("learning_rate: {a: 1}", "`learning_rate` must be of type float, got {'a': 1}."),
        ("max_steps: 2.5", "`max_steps` must be an integer, got '2.5'."),
        ("max_steps: true", "`max_steps` must be an integer, got 'true'."),
        ("max_steps: 3\nbf16: true\nmax_steps: 4", "`max_steps` must be given once, got it in lines 1 and 3."),
        ("model_init_kwargs:\n  a: 1\n  b: 2\n  a: 3", "`a` must be given once, got it in lines 2 and 4."),
        ("max_steps: null", "`max_steps` must be of type int, got None."),
        ("warmup: [1]", "`warmup` must be of type float or null, got [1]."),
        ("a/b: 1", "unknown name `a/b`. `--help all` prints all of them."),
        ("bf16: 3", "`bf16` must be yes or no, got '3'."),
        ("- a\n- b", "must have lines `name: value`, got ['a', 'b']."),
        ("", "must have lines `name: value`, got None."),
        ("max_steps=2", "must have lines `name: value`, got 'max_steps=2'."),
        ("a: [", "is not valid YAML in line 1: "),
        (
            "max_steps: 2\n\tlearning_rate: 1",
            "is not valid YAML in line 2: found character '\\t' that cannot start any token, got 'learning_rate: 1'. "
            "Indent with spaces.",
        ),
        (
            "max_steps: 2\nsave_strategy: {mr} ->",
            "got 'save_strategy: {mr} ->'. Put a text with such signs into quotes",
        ),
        ("save_strategy: at: once", "got 'save_strategy: at: once'. Put a text with a colon into quotes."),
        ("rewards: &r [*r]", "is not valid YAML"),
        ("max_steps: !!python/object/apply:os.getpid []", "is not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"config.yaml.*{re.escape(message)}"):
        parse(Numbers, argv=["--config", written(tmp_path, text)])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learing_rate", "1"], "Unknown argument `--learing_rate`. Did you mean `--learning_rate`?"),
        (["--learing-rate=1"], "Unknown argument `--learing-rate=1`. Did you mean `--learning_rate`?"),
        (["--zzz"], "Unknown argument `--zzz`. `--help all` prints all of them."),
        (["--learning"], "Unknown argument `--learning`."),
        (["stray"], "Unknown argument `stray`."),
        (["max_steps=2"], "Unknown argument `max_steps=2`. Did you mean `--max_steps=2`?"),
        (["max_steps", "2"], "Unknown argument `max_steps`. Did you mean `--max_steps`?"),
        (["--rate", "1"], "Unknown argument `--rate`. Did you mean `--learning_rate`?"),
        (["--model", "gpt2"], "Unknown argument `--model`. Did you mean `--model_init_kwargs`?"),
        (["--lr", "1"], "Unknown argument `--lr`. Did you mean `--learning_rate`?"),
        (
            ["--num_processes", "2"],
            "Unknown argument `--num_processes`. It belongs to `accelerate launch` and `lmrl run`: write it before "
            "the recipe.",
        ),
        (["--learning_rate", "fast"], "`learning_rate` must be a number, got 'fast'."),
        (["--config"], "`config` must have a value, got none."),
        (
            ["--config", "missing.yaml"],
            "`--config` must be a file that can be read, got 'missing.yaml': No such file or directory.",
        ),
    ],
)
def test_a_wrong_command_line_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(Numbers, argv=argv)


def test_the_folder_of_a_training_run_is_the_evaluations_by_another_name() -> None:
    with pytest.raises(ValueError, match=r"Unknown argument `--output_dir`\. Did you mean `--eval_output_dir`"):
        parse(ModelArguments, EvaluationArguments, argv=["--output_dir", "runs/x"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--rewards", "{x"], r"`rewards` must be valid JSON, got '{x' \(.*\). Quote it in '...'."),
        (
            ["--rewards", '{"a": 1, "b": 2}'],
            "`rewards` must have names, or names with options such as .*, got {'a': 1",
        ),
        (["--eval_metrics", ""], "`eval_metrics` must have names, or names with options such as .*, got ''"),
        (
            ["--long_prompts", "drp"],
            "`long_prompts` must be one of error, drop, cut, cut_end, got 'drp'. Did .*`drop`",
        ),
        (["--eval_rows", "0"], "`eval_rows` must be at least 1, got 0."),
        (["--eval_num_beams", "0"], "`eval_num_beams` must be at least 1, got 0."),
        (["--eval_subset", "0"], "`eval_subset` must be at least 1, got 0."),
    ],
)
def test_values_outside_their_range_are_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(*ALL, argv=argv)


@pytest.mark.parametrize(
    ("kind", "argv", "message"),
    [
        (
            ModelArguments,
            ["--lora_r", "8"],
            "`lora_r` must not be set without `use_peft`, got 8: it would not be read.",
        ),
        (ModelArguments, ["--use_dora", "true"], "`use_dora` must not be set without `use_peft`, got True"),
        (ModelArguments, ["--bnb_4bit_quant_type", "fp4"], "`bnb_4bit_quant_type` must not be set without `load_in_4"),
        (
            DataArguments,
            ["--prompt_template", "{a} ->", "--prompt_column", "text"],
            "`prompt_column` must not be set with `prompt_template`, got 'text'",
        ),
        (
            PreferenceArguments,
            ["--dataset_name", "rows.jsonl", "--min_grade_difference", "1"],
            "`min_grade_difference` must not be set without `grade_columns`, got 1.0",
        ),
        (CheckpointArguments, ["--use_peft", "true"], "Unknown argument `--use_peft`"),
        (CheckpointArguments, ["--merge", "true"], "Unknown argument `--merge`"),
        (HeldOutArguments, ["--max_train_rows", "1"], "Unknown argument `--max_train_rows`"),
        (ScoringArguments, ["--eval_subset", "1"], "Unknown argument `--eval_subset`"),
    ],
)
def test_an_argument_that_would_not_be_read_is_refused(kind: type, argv: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(kind, argv=argv)


@pytest.mark.parametrize("argv", [["--eval_temperature", "0.5"], ["--eval_seed", "1"], ["--eval_num_samples", "2"]])
def test_options_of_sampling_are_refused_in_greedy_decoding(argv: list[str]) -> None:
    (comparison,) = parse(ComparisonArguments, argv=argv)
    name = argv[0].removeprefix("--")
    assert comparison.sampling(do_sample=True)[name.removeprefix("eval_")] == float(argv[1])
    with pytest.raises(ValueError, match=f"`{name}` must not be set without `eval_do_sample`"):
        comparison.sampling(do_sample=False)


def test_comparison_refuses_a_temperature_of_zero() -> None:
    with pytest.raises(ValueError, match=r"`eval_temperature` must be above 0, got 0\.0\."):
        parse(ComparisonArguments, argv=["--eval_temperature", "0"])


def test_no_two_dataclasses_of_a_recipe_share_a_field() -> None:
    for recipe in ((*ALL, RLOOConfig), (CheckpointArguments, HeldOutArguments, ScoringArguments, ComparisonArguments)):
        names = [f.name for kind in recipe for f in fields(kind)]
        assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("kind", [*ALL, CheckpointArguments, ComparisonArguments, HeldOutArguments, ScoringArguments])
def test_every_field_has_a_description(kind: type) -> None:
    own = kind.__annotations__
    assert len(own) <= 14
    assert all(f.metadata["help"].endswith(".") for f in fields(kind) if f.name in own and f.init)


def test_help_has_groups_and_a_page_of_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        parse(*ALL, PPOConfig, argv=["--beta", "1", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    headings = [line for line in shown.splitlines() if line.isupper()]
    assert headings == ["MODEL", "DATA", "REWARDS", "TRAINING", "PPO", "EVALUATION", "OUTPUT"]
    assert len(shown.splitlines()) <= 120
    assert all(len(line) <= 80 for line in shown.splitlines())
    for name in (
        "config",
        "learning_rate",
        "beta",
        "output_dir",
        *set(PPOConfig.__annotations__).difference(_ADVANCED),
    ):
        assert f"  --{name}" in shown, name
    for kind in ALL:
        own = {f.name for f in fields(kind) if f.init and f.name in kind.__annotations__}
        assert [name for name in own.difference(_ADVANCED, _OF_COMPARISON) if f"  --{name}" not in shown] == []
    assert "--hub_token" not in shown and "--help all" in shown


def test_help_all_has_every_argument_and_its_complete_description(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--help", "all"], ["--help=all"]):
        with pytest.raises(SystemExit):
            parse(*ALL, PPOConfig, argv=argv)
        shown = capsys.readouterr().out
        named = re.findall(r"^  --(\w+)", shown, flags=re.MULTILINE)
        assert sorted(named) == sorted(
            ["config", *(f.name for kind in (*ALL, PPOConfig) for f in fields(kind) if f.init)]
        )
        assert shown.splitlines().count("OTHER ARGUMENTS OF TRL AND TRANSFORMERS") == 1
        for kind in ALL:
            for f in fields(kind):
                if f.init and f.name in kind.__annotations__:
                    assert f.metadata["help"] in " ".join(shown.split()), f.name


def test_help_names_defaults_choices_and_kinds_of_values(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(*ALL, Numbers, argv=["-h"])
    lines = capsys.readouterr().out.splitlines()
    assert "  --eval_batch_size N            Prompts completed at a time. [32]" in lines
    assert "  --long_prompts {error,drop,cut,cut_end}" in lines
    assert "  --warmup X                     100% of nothing [0.1]" in lines
    assert "  --bf16                         Precision." in lines
    assert "  --model_init_kwargs JSON       Passed on." in lines


def test_help_states_when_the_demo_applies_and_its_values(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    demo = written(tmp_path, "max_steps: 60\nlearning_rate: 3.0e-4\nreward_weights: [0.5, 1]\n")
    with pytest.raises(SystemExit):
        parse(*ALL, Numbers, argv=["--help"], demo=demo)
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "Without --config, --model_name_or_path and --dataset_name, config.yaml applies: --max_steps 60 "
        "--learning_rate 0.0003 --reward_weights 0.5 1 MODEL"
    ) in shown


def test_every_argument_of_the_evaluation_begins_with_eval() -> None:
    names = {f.name for f in fields(EvaluationArguments)} - {"primary_metrics", "win_rate"}
    assert len(names) == 10 and all(name.startswith("eval_") for name in names)


OLD_NAMES = {
    "batch_size": ("eval_batch_size", "8", 8),
    "do_sample": ("eval_do_sample", "true", True),
    "eval_rows_in_training": ("eval_subset", "7", 7),
    "max_new_tokens": ("eval_max_new_tokens", "9", 9),
    "metrics": ("eval_metrics", "chrf", ["chrf"]),
    "num_beams": ("eval_num_beams", "2", 2),
    "num_samples_shown": ("eval_num_completions_to_print", "3", 3),
    "perplexity_model": ("eval_perplexity_model", "gpt2", "gpt2"),
    "results_dir": ("eval_output_dir", "out", "out"),
}


@pytest.mark.parametrize("old", OLD_NAMES)
def test_an_old_name_is_accepted_with_a_warning(old: str, tmp_path: Path) -> None:
    new, text, value = OLD_NAMES[old]
    forms = (
        ([f"--{old}", text], f"`--{old}` is deprecated and will be removed in lmrl 0.3.0. Use `--{new}`."),
        ([f"--{old.replace('_', '-')}={text}"], f"Use `--{new}`."),
        (["--config", written(tmp_path, f"{old}: {text}\n")], f"`{old}:` is deprecated .* Use `{new}:`."),
    )
    for argv, message in forms:
        with pytest.warns(FutureWarning, match=message):
            (evaluation,) = parse(EvaluationArguments, argv=argv)
        assert getattr(evaluation, new) == value
        assert evaluation == replace(EvaluationArguments(), **{new: value})


def test_an_old_name_that_another_argument_has_now_is_that_argument() -> None:
    @dataclass
    class Training:
        """Has a field that is the old name of another."""

        batch_size: int = field(default=1, metadata={"help": "Rows."})

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation, training = parse(EvaluationArguments, Training, argv=["--batch_size", "8"])
    assert (evaluation.eval_batch_size, training.batch_size) == (32, 8)


def raising(error: BaseException) -> None:
    """Stands for a recipe that goes wrong."""
    raise error


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (ValueError("`beta` must be\n  at least 0, got -1."), 2, "error: `beta` must be at least 0, got -1.\n"),
        (FileNotFoundError("no rows.jsonl"), 2, "error: no rows.jsonl\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_a_mistake_of_the_user_is_printed_in_one_line(
    error: BaseException,
    status: int,
    printed: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("lmrl.cli.errors._LAUNCHER_GRACE_SECONDS", 0.0)
    own = "" if status == 130 else f"process 1: {printed}"
    for rank, wanted in ((None, printed), ("0", printed), ("1", own)):
        if rank is not None:
            monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as stopped:
            run(lambda: raising(error))
        assert (stopped.value.code, capsys.readouterr().err) == (status, wanted)


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(KeyError):
        run(lambda: raising(KeyError("bug")))
    with pytest.raises(TypeError):
        run(lambda: raising(errors=1))


@pytest.mark.parametrize("status", [None, 143])
def test_a_run_that_ends_destroys_its_process_group(status: int | None, tmp_path: Path) -> None:
    def main() -> None:
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
        if status is not None:
            sys.exit(status)

    with nullcontext() if status is None else pytest.raises(SystemExit, match="143"):
        run(main)
    assert not distributed.is_initialized()


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMRL_DEBUG", "1")
    with pytest.raises(SystemExit):
        run(lambda: raising(ValueError("here")))
    assert "Traceback" in capsys.readouterr().err


def test_arguments_are_imported_without_torch() -> None:
    code = "import sys, lmrl.arguments; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--warmup_steps=inf", "`warmup_steps` must be a finite number, got inf."),
        ("--beta=nan", "`beta` must be a finite number, got nan."),
        (
            f"--num_iterations={10**30}",
            "`num_iterations` must be a number of at most 64 bits, got 1000000000000000000000000000000.",
        ),
        ("--run_name=--", "`run_name` must have a value, got `--`."),
        (
            "--lr_scheduler_kwargs=epoch",
            """`lr_scheduler_kwargs` must be a JSON object such as {"name": 1}, got 'epoch'.""",
        ),
        ("--generation_kwargs=[1]", """`generation_kwargs` must be a JSON object such as {"name": 1}, got '[1]'."""),
        ("--generation_kwargs=[" + "1" * 300, """`generation_kwargs` must be a JSON object such as {"name": 1}"""),
        ('--accelerator_config={"a": 1}', "These arguments cannot be used together (TypeError: "),
        ("--reward_clip_range=0", "`reward_clip_range` must be a list of numbers, got '0'. Put it into a YAML file."),
    ],
)
def test_a_value_that_a_library_would_fail_on_later_is_refused_at_once(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(PPOConfig, argv=["--output_dir", "out", text])
    assert message in str(caught.value)


def test_two_numbers_have_a_form_in_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, "reward_clip_range: [-1, 1]\noutput_dir: out\n")
    (config,) = parse(PPOConfig, argv=["--config", path])
    assert config.reward_clip_range == (-1, 1)
    path = written(tmp_path, "reward_clip_range: [1, -1]\noutput_dir: out\n")
    with pytest.raises(ValueError, match="the lower one first"):
        parse(PPOConfig, argv=["--config", path])


def test_a_file_that_only_a_machine_would_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("{a: " * 3000)
    (tmp_path / "code.yaml").write_text(f"seed: !!python/object/apply:os.mkdir ['{tmp_path}/owned']\n")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"bytes\.yaml must be UTF-8 text, got .*\. Save it again as UTF-8\.$"):
        parse(PPOConfig, argv=["--config", str(tmp_path / "bytes.yaml")])
    for name in ("deep", "code"):
        with pytest.raises(ValueError, match=f"{name}.yaml is not valid YAML"):
            parse(PPOConfig, argv=["--config", str(tmp_path / f"{name}.yaml")])
    assert not (tmp_path / "owned").exists()


def test_another_process_that_has_ended_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:4711")
    with pytest.raises(RuntimeError):  # of one process it is a bug
        run(lambda: raising(gone))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        run(lambda: raising(gone))
    printed = capsys.readouterr().err
    assert printed.startswith(
        "error: Another process of this run has ended or does not respond ([pair.cc:547] Connection"
    )
    assert "--resume_from_checkpoint" in printed


def test_variables_of_the_chat_template_are_a_json_object() -> None:
    for given in ('{"think": false}', {"think": False}):
        assert ComparisonArguments(chat_template_kwargs=given).sampling(True)["chat_template_kwargs"] == {
            "think": False
        }
    assert ComparisonArguments().sampling(True)["chat_template_kwargs"] is None
    for wrong in ("think", "[1]", "3"):
        with pytest.raises(ValueError, match=r"`chat_template_kwargs` must be a JSON object, got '"):
            ComparisonArguments(chat_template_kwargs=wrong)


@pytest.mark.parametrize("name", ["eval_accumulation_steps", "per_device_eval_batch_size"])
def test_numbers_that_a_trainer_divides_by_are_at_least_one(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must be at least 1, got 0\."):
        parse(TrainingArguments, argv=[f"--output_dir={tmp_path}", f"--{name}=0"])


BLOCKS = """
learning_rate: 0.1
data: {dataset_name: rows.jsonl, prompt_template: "{mr} ->", text_column: story}
model: {model_name_or_path: start, use_peft: true, lora_r: 4}
ppo_gen: {model_name_or_path: runs/sft, max_steps: 5, learning_rate: 0.2}
reinforce_gen: {baseline: greedy}
"""


def parse_as(recipe: str, monkeypatch: pytest.MonkeyPatch, path: str, *argv: str) -> tuple[Any, ...]:
    """Parses the arguments as a recipe of that name does, with a few of its own."""
    monkeypatch.setattr("sys.argv", [f"{recipe}.py"])
    return parse(*ALL, Numbers, argv=["--config", path, *argv])


def test_a_file_has_blocks_that_all_recipes_read_and_one_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, BLOCKS)
    model, data, *_, numbers = parse_as("ppo_gen", monkeypatch, path)
    assert (model.model_name_or_path, model.lora_r, data.dataset_name) == ("runs/sft", 4, "rows.jsonl")
    assert (data.prompt_template, numbers.max_steps, numbers.learning_rate) == ("{mr} ->", 5, 0.2)
    model, *_, numbers = parse_as("sft", monkeypatch, path)
    assert (model.model_name_or_path, numbers.max_steps, numbers.learning_rate) == ("start", -1, 0.1)
    *_, numbers = parse_as("ppo_gen", monkeypatch, path, "--learning_rate", "0.3")
    assert numbers.learning_rate == 0.3
    (tmp_path / "my_ppo.py").touch()  # a recipe of one's own beside the one that runs
    path = written(tmp_path, "my_ppo: {warmup: 0.2}\nmax_steps: 3\n")
    assert parse_as(str(tmp_path / "my_ppo"), monkeypatch, path)[-1].warmup == 0.2
    assert parse_as(str(tmp_path / "sft"), monkeypatch, path)[-1].warmup == 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("baseline: greedy", "`baseline` belongs to reinforce_gen. Put it into a block with the name of the recipe."),
        ("objective: bleu", "`objective` belongs to sweep. Put it into"),
        ("ppo_gne: {max_steps: 1}", "unknown name `ppo_gne`. Did you mean `ppo_gen`?"),
        ("dta: {dataset_name: demo}", "unknown name `dta`. Did you mean `data`?"),
        ("dataset: {dataset_name: demo}", "unknown name `dataset`. Blocks are `data`, `model` and those of recipes: "),
        ("training: {max_steps: 3}", "unknown name `training`. Blocks are `data`, `model` and those of recipes: "),
        ("ppo_gen: {data: {chat: true}}", "`data` must be a block at the top, got it in `ppo_gen`. Indent it less."),
        ("sft: {model: {lora_r: 4}}", "`model` must be a block at the top, got it in `sft`. Indent it less."),
        ("data: {sft: {max_steps: 3}}", "`sft` must be a block at the top, got it in `data`. Indent it less."),
        ("model_init_kwarg: {a: 1}", "unknown name `model_init_kwarg`. Did you mean `model_init_kwargs`?"),
        ("data: demo", "`data` must be a block of lines `name: value`, got 'demo'."),
        ("data: {datset_name: demo}", "unknown name `datset_name` in `data`. Did you mean `dataset_name`?"),
        (
            "data: {learning_rate: 1}",
            "`learning_rate` must be at the top or in the block of a recipe, got it in `data`.",
        ),
        ("data: {chat: true}\nchat: false", "`chat` must be given once, got it at the top and in `data` or `model`."),
        ("ppo_gen: {max_stps: 1}", "unknown name `max_stps`. Did you mean `max_steps`?"),
        ("ppo_gen: {baseline: greedy}", "`baseline` belongs to reinforce_gen. Put it into"),
        ("reinforce_gen: {basline: greedy}", "unknown name `basline` in `reinforce_gen`. Did you mean `baseline`?"),
        ("reinforce_gen: {critic: shared}", "unknown name `critic` in `reinforce_gen`. It belongs to ppo_gen."),
        ("reinforce_gen: {1: 2}", "unknown name `1` in `reinforce_gen`. `reinforce_gen.py --help all` prints all."),
        (
            "eval_batch_size: 4\nbatch_size: 8",
            "`eval_batch_size` must be given once, got it under its former name too. Leave out either.",
        ),
    ],
)
def test_a_name_in_a_wrong_place_of_a_file_is_refused(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}"):
        parse_as("ppo_gen", monkeypatch, path)


def test_the_error_for_a_flag_of_another_recipe_names_that() -> None:
    with pytest.raises(ValueError, match=r"^Unknown argument `--critic`\. It belongs to ppo_gen\.$"):
        parse(*ALL, Numbers, argv=["--critic", "shared"])
