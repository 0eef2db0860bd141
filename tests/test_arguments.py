"""What recipes are told arrives as it was meant, and what is wrong is said in a sentence."""

import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest
from torch import distributed
from trl import RLOOConfig

from lmrl.arguments import (
    ComparisonArguments,
    DataArguments,
    EvaluationArguments,
    ModelArguments,
    RewardArguments,
)
from lmrl.cli import parse, run
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
    assert (model.model_name_or_path, model.lora_dropout) == (None, 0.0)
    assert (data.dataset_name, data.dataset_train_split, data.long_prompts) == ("demo", "train", "error")
    assert rewards.rewards == ["bleu", "rougeL"]
    assert (evaluation.do_sample, evaluation.num_beams) == (False, 1)


def test_yaml_values_have_the_types_of_the_fields(tmp_path: Path) -> None:
    text = (
        "learning_rate: 1e-4\nreward_weights: [1, 5e-1]\nreport_to: [tensorboard, wandb]\nwarmup: null\n"
        "model_init_kwargs: {revision: main}\nsave_strategy: no\nbf16: true\n"
    )
    (numbers,) = parse(Numbers, argv=["--config", written(tmp_path, text)])
    assert numbers == Numbers(1e-4, -1, [1.0, 0.5], ["tensorboard", "wandb"], {"revision": "main"}, "no", None, True)
    assert [type(weight) for weight in numbers.reward_weights] == [float, float]


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
    ("text", "sentence"),
    [
        ("learing_rate: 1", "unknown name 'learing_rate': did you mean learning_rate?"),
        ("zzz: 1", "unknown name 'zzz': --help lists what there is"),
        ("learning_rate: fast", "invalid float value: 'fast'"),
        ("learning_rate: [1]", r"learning_rate is \[1\], but must be of type float"),
        ("learning_rate: {a: 1}", "learning_rate is {'a': 1}, but must be of type float"),
        ("max_steps: 2.5", "invalid int value: '2.5'"),
        ("max_steps: true", "invalid int value: 'yes'"),
        ("max_steps: null", "max_steps is None, but must be of type int"),
        ("bf16: 3", "Truthy value expected: got 3"),
        ("- a\n- b", "must have lines `name: value`, but is of type list"),
        ("", "must have lines `name: value`, but is of type NoneType"),
        ("a: [", "is not valid YAML"),
        ("max_steps: !!python/object/apply:os.getpid []", "is not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"config.yaml.*{sentence}"):
        parse(Numbers, argv=["--config", written(tmp_path, text)])


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--learing_rate", "1"], "unknown argument '--learing_rate': did you mean --learning_rate?"),
        (["--learing-rate=1"], "unknown argument '--learing-rate=1': did you mean --learning_rate?"),
        (["--learning"], "unknown argument '--learning'"),
        (["stray"], "unknown argument 'stray'"),
        (["--learning_rate", "fast"], "invalid float value: 'fast'"),
        (["--config"], "expected one argument"),
        (["--config", "missing.yaml"], "'missing.yaml', cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_command_line_is_refused(argv: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        parse(Numbers, argv=argv)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--rewards", "{x"], "is not valid JSON"),
        (["--rewards", '{"a": 1, "b": 2}'], "each must be a name, or a name with options"),
        (["--metrics", ""], "each must be a name, or a name with options"),
        (["--long_prompts", "shorten"], "choose from 'error', 'drop', 'cut'"),
        (["--eval_rows", "0"], "eval_rows is 0, but must be at least 1"),
        (["--num_beams", "0"], "num_beams is 0, but must be at least 1"),
    ],
)
def test_values_outside_their_range_are_refused(argv: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse(*ALL, argv=argv)


def test_comparison_refuses_a_temperature_of_zero() -> None:
    with pytest.raises(ValueError, match=r"temperature is 0\.0, but must be over 0"):
        parse(ComparisonArguments, argv=["--temperature", "0"])


def test_no_two_dataclasses_of_a_recipe_share_a_field() -> None:
    for recipe in ((*ALL, RLOOConfig), (*ALL, ComparisonArguments)):
        names = [f.name for kind in recipe for f in fields(kind)]
        assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("kind", [*ALL, ComparisonArguments])
def test_every_field_says_what_it_does(kind: type) -> None:
    own = kind.__annotations__
    assert len(own) <= 14
    assert all(f.metadata["help"].endswith(".") for f in fields(kind) if f.name in own)


def test_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(*ALL, Numbers, argv=["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "--config FILE" in shown and "--reference_column" in shown


def raising(error: BaseException) -> None:
    """Stands for a recipe that goes wrong."""
    raise error


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (ValueError("beta is -1,\n  but must be at least 0"), 2, "error: beta is -1, but must be at least 0\n"),
        (FileNotFoundError("no rows.jsonl"), 2, "error: no rows.jsonl\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_what_a_user_did_wrong_is_one_sentence(
    error: BaseException,
    status: int,
    printed: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("lmrl.cli._GRACE", 0.0)
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
def test_a_run_that_ends_parts_from_the_other_processes(status: int | None, tmp_path: Path) -> None:
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
    ("text", "sentence"),
    [
        ("--warmup_steps=inf", "warmup_steps is inf, but must be a finite number"),
        ("--beta=nan", "beta is nan, but must be a finite number"),
        (
            f"--num_iterations={10**30}",
            "num_iterations is 1000000000000000000000000000000, but must be a number of at most 64 bits",
        ),
        ("--run_name=--", "run_name has no value: `--` cannot be one"),
        ("--lr_scheduler_kwargs=epoch", "lr_scheduler_kwargs is 'epoch', but must be a JSON object"),
        ("--generation_kwargs=[1]", "generation_kwargs is '[1]', but must be a JSON object"),
        ('--accelerator_config={"a": 1}', "these arguments cannot be used together (TypeError: "),
        ("--reward_clip_range=0", "reward_clip_range is a list of numbers and has no form on a command line"),
    ],
)
def test_what_a_library_would_stumble_over_later_is_refused_at_once(text: str, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(PPOConfig, argv=["--output_dir", "out", text])
    assert sentence in str(caught.value)


def test_two_numbers_have_a_form_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("reward_clip_range: [-1, 1]\noutput_dir: out\n")
    (config,) = parse(PPOConfig, argv=["--config", str(tmp_path / "mine.yaml")])
    assert config.reward_clip_range == (-1, 1)
    (tmp_path / "mine.yaml").write_text("reward_clip_range: [1, -1]\noutput_dir: out\n")
    with pytest.raises(ValueError, match="the lower one first"):
        parse(PPOConfig, argv=["--config", str(tmp_path / "mine.yaml")])


def test_a_file_that_only_a_machine_would_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("{a: " * 3000)
    (tmp_path / "code.yaml").write_text(f"seed: !!python/object/apply:os.mkdir ['{tmp_path}/owned']\n")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("deep", "code", "bytes"):
        with pytest.raises(ValueError, match=f"{name}.yaml is not valid YAML"):
            parse(PPOConfig, argv=["--config", str(tmp_path / f"{name}.yaml")])
    assert not (tmp_path / "owned").exists()


def test_another_process_that_is_gone_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:4711")
    with pytest.raises(RuntimeError):  # of one process it is a bug
        run(lambda: raising(gone))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        run(lambda: raising(gone))
    told = capsys.readouterr().err
    assert told.startswith("error: another process of this run has ended or does not answer ([pair.cc:547] Connection")
    assert "--resume_from_checkpoint" in told
