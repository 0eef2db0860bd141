"""Access tokens, keys and passwords, which no file of a run has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from search.test_study import make_sweep
from training import make_trainer

from lmrl.arguments import ComparisonArguments, EvaluationArguments, RewardArguments
from lmrl.experiment import start_run
from lmrl.settings import without_secrets

SECRET = "s3cret"


def files_with_it(folder: Path) -> list[str]:
    """Returns the files in a folder that have the secret."""
    return [path.name for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"hub_token": "s", "beta": 0.1, "push_to_hub_token": None}, {"hub_token": "hidden", "beta": 0.1}),
        ({"model_init_kwargs": {"token": "s", "dtype": "auto"}}, {"model_init_kwargs": {"token": "hidden"}}),
        ({"rewards": [{"my.py:Grader": {"api_key": "s"}}]}, {"rewards": [{"my.py:Grader": {"api_key": "hidden"}}]}),
        ({"url": "https://me:s@host:80/v1?n=1"}, {"url": "https://hidden@host:80/v1?n=1"}),
        ({"url": "https://host/v1?access_token=s&n=1"}, {"url": "https://host/v1?access_token=hidden&n=1"}),
        ({"run": "a.py --hub_token s --beta 1"}, {"run": "a.py --hub_token hidden --beta 1"}),
        ({"run": "a.py --api-key=s"}, {"run": "a.py --api-key=hidden"}),
        ({"loss_level": "token", "rewards": ["a.py:b"]}, {"loss_level": "token", "rewards": ["a.py:b"]}),
        ({"prompt_template": "Token: {token} ->", "max_tokens": 3}, {"prompt_template": "Token: {token} ->"}),
    ],
)  # fmt: skip
def test_a_setting_is_shown_without_secrets(given: dict[str, Any], expected: dict[str, Any]) -> None:
    shown = without_secrets(given)
    for name, value in expected.items():
        part = shown[name]
        if isinstance(value, dict):
            part = {key: part[key] for key in value}
        assert part == value
    assert shown.keys() == given.keys()


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_no_file_of_a_run_has_a_secret_and_the_run_has_it(algorithm: str, gpt2_path: str, tmp_path: Path) -> None:
    secrets = {
        "hub_token": SECRET,
        "model_init_kwargs": {"token": SECRET, "dtype": "float32"},
        "vllm_server_base_url": f"https://me:{SECRET}@host:8000",
    }
    saving = {"save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, **secrets, **saving)
    start_run(trainer, trainer.train_dataset, trainer.train_dataset, EvaluationArguments())
    trainer.train()
    trainer.save_model()
    assert {name: getattr(trainer.args, name) for name in secrets} == secrets
    assert (tmp_path / "run.json").is_file() and (tmp_path / "checkpoint-2" / "lmrl_state.json").is_file()
    assert files_with_it(tmp_path) == []
    saved = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert (saved.hub_token, saved.max_steps, saved.model_init_kwargs["dtype"]) == ("hidden", 2, "float32")


def test_a_checkpoint_with_a_token_is_resumed_without_a_word_of_it(
    gpt2_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"model_init_kwargs": {"token": SECRET}, "save_strategy": "steps", "save_steps": 2}
    make_trainer("reinforce", gpt2_path, tmp_path, **options).train()
    state = tmp_path / "checkpoint-2" / "lmrl_state.json"
    state.write_text(state.read_text().replace('"token": "hidden"', f'"token": "{SECRET}"'))
    assert SECRET in state.read_text()
    (state.parent / "lmrl_files.json").unlink()
    resumed = make_trainer("reinforce", gpt2_path, tmp_path, **{**options, "max_steps": 3})
    resumed.train(resume_from_checkpoint=True)
    assert "Taken: max_steps=3 (was 2)." in caplog.text and SECRET not in caplog.text


def test_the_journal_of_a_sweep_has_no_token_of_its_command(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, "--hub_token", SECRET, x=[1.0], trials=1)
    sweep._check_settings()
    assert "--hub_token hidden" in sweep.study.user_attrs["settings"]
    assert files_with_it(tmp_path) == []


@pytest.mark.parametrize(
    "spec",
    [
        {"graders.py:Grader": {"api_key": SECRET}},
        '{"graders.py:Grader": {"options": {"token": "s3cret"}}}',
        {"cached": {"reward": {"graders.py:Grader": {"url": f"https://me:{SECRET}@host"}}}},
    ],
)
def test_an_option_of_a_reward_that_is_a_secret_is_refused_without_it(spec: Any) -> None:
    rule = r"must have no access token, key or password, got .*hidden.*Have your reward read it from the environment"
    with pytest.raises(ValueError, match=f"`rewards` {rule}") as refused:
        RewardArguments(rewards=["bleu", spec])
    assert SECRET not in str(refused.value)
    with pytest.raises(ValueError, match=f"`eval_mbr_metric` {rule}"):
        ComparisonArguments(eval_mbr_metric=spec)


def test_tokens_of_a_vocabulary_are_no_secrets() -> None:
    settings = {"eos_token": "<|im_end|>", "pad_token": "<pad>", "prompt": "--eos_token </s>", "hub_token": "hf_abc"}
    assert without_secrets(settings) == {**settings, "hub_token": "hidden"}
