"""The rollouts of a run, saved as JSON Lines."""

import json
from pathlib import Path
from typing import Any

import pytest
from training import ALGORITHMS, PROMPTS, make_trainer, share_of_a, share_of_letters

from lmrl.rollouts import RolloutFile, drop_after, read_rollouts
from lmrl.trainers import ReinforceConfig


def log_of(folder: Path) -> dict[int, dict[str, Any]]:
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return {row["step"]: row for row in rows if "reward" in row}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_rollouts_are_those_of_the_log(algorithm: str, gpt2_path: str, tmp_path: Path) -> None:
    rewards = [share_of_letters, share_of_a]
    options = {"reward_weights": [1.0, 0.5], "missing_eos_penalty": 0.25, "num_iterations": 1}
    make_trainer(algorithm, gpt2_path, tmp_path, rewards, **options).train()
    rows = read_rollouts(tmp_path)
    assert [row["step"] for row in rows] == [1] * 8 + [2] * 8
    assert all(row["prompt"] in PROMPTS for row in rows)
    names = ("step", "prompt", "completion", "reward", "length", "finished", "kl", "rewards", "advantage")
    assert {tuple(row) for row in rows} == {names}
    for step, logged in log_of(tmp_path).items():
        own = [row for row in rows if row["step"] == step]
        assert mean([row["reward"] for row in own]) == pytest.approx(logged["reward"])
        assert mean([row["kl"] for row in own]) == pytest.approx(logged["kl_per_sequence"], abs=1e-6)
        assert mean([row["length"] for row in own]) == pytest.approx(logged["completions/mean_length"])
        assert all(row["finished"] is True or row["length"] == 8 for row in own)
        assert all(type(row["length"]) is int for row in own)
        for row in own:
            texts = [row["completion"]]
            expected = {"share_of_letters": share_of_letters(texts)[0], "share_of_a": share_of_a(texts)[0]}
            assert row["rewards"] == pytest.approx(expected)
            weighted = expected["share_of_letters"] + expected["share_of_a"] / 2
            assert row["reward"] == pytest.approx(weighted - (0 if row["finished"] else 0.25))
        if algorithm == "reinforce":  # leave one out, of two completions
            penalized = [row["reward"] - 0.05 * row["kl"] for row in own]
            for index, row in enumerate(own):
                other = index ^ 1
                assert row["prompt"] == own[other]["prompt"]
                assert row["advantage"] == pytest.approx(penalized[index] - penalized[other], abs=1e-6)


def test_a_resumed_run_goes_on_with_the_rollouts_of_its_checkpoint(gpt2_path: str, tmp_path: Path) -> None:
    # Two steps a rollout: the checkpoint is in the middle of the second one.
    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, "num_iterations": 2, "rollouts_to_save": 1}
    make_trainer("ppo", gpt2_path, tmp_path, **options).train()
    complete = (tmp_path / "rollouts.jsonl").read_bytes()
    assert [row["step"] for row in read_rollouts(tmp_path)] == [1, 1, 3, 3, 5, 5]
    (tmp_path / "rollouts.jsonl").open("a").write('{"step": 99}\n{"cut sho')  # what a kill may leave
    trainer = make_trainer("ppo", gpt2_path, tmp_path, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert (tmp_path / "rollouts.jsonl").read_bytes() == complete


def test_without_rollouts_to_save_there_is_no_file(gpt2_path: str, tmp_path: Path) -> None:
    (tmp_path / "rollouts.jsonl").write_text('{"step": 1}\n')  # of an earlier run
    make_trainer("reinforce", gpt2_path, tmp_path, max_steps=1, rollouts_to_save=0).train()
    assert not (tmp_path / "rollouts.jsonl").exists()
    with pytest.raises(ValueError, match=r"^`rollouts_to_save` must be at least 0, got -1\."):
        ReinforceConfig(str(tmp_path), rollouts_to_save=-1)


def columns(text: str) -> dict[str, Any]:
    numbers = {"reward": [0.5, float("nan")], "kl": []}
    return {"prompt": ["p", "p"], "completion": [text, text], "rewards": {"r": [1.0, None]}, "extra": {}, **numbers}


def test_a_line_has_what_is_known_of_a_completion(tmp_path: Path) -> None:
    text = "a\u2028b \ud800 \x85"
    file = RolloutFile(tmp_path, 2)
    file.add(1, 1, columns(text))
    shared = {"step": 1, "prompt": "p", "completion": text}
    expected = [{**shared, "rewards": {"r": 1.0}, "reward": 0.5}, {**shared, "rewards": {"r": None}, "reward": None}]
    assert read_rollouts(tmp_path) == expected


def test_numbers_that_json_lacks_are_null_in_a_tuple_too(tmp_path: Path) -> None:
    file = RolloutFile(tmp_path, 1)
    file.add(1, 1, {**columns("text"), "extra": {"spans": [(0.5, float("nan")), ()]}})
    (line,) = (tmp_path / "rollouts.jsonl").read_text().splitlines()
    assert json.loads(line)["extra"] == {"spans": [0.5, None]}


def test_one_rollout_is_saved_of_every_logging_steps(tmp_path: Path) -> None:
    file = RolloutFile(tmp_path, 1)
    for step in range(1, 31):
        file.add(step, 10, columns("text"))
    assert [row["step"] for row in read_rollouts(tmp_path)] == [1, 11, 21]


def test_a_file_within_its_bound_covers_all_of_the_training(tmp_path: Path) -> None:
    file = RolloutFile(tmp_path, 1, max_bytes=2000)
    for step in range(1, 201):
        if step == 101:  # resumed
            file = RolloutFile(tmp_path, 1, max_bytes=2000)
        file.add(step, 1, columns("x" * 100))
        assert (tmp_path / "rollouts.jsonl").stat().st_size <= 2000
    steps = [row["step"] for row in read_rollouts(tmp_path)]
    assert steps == list(range(1, 201, 32))  # a line has 166 bytes or more
    assert [path.name for path in tmp_path.iterdir()] == ["rollouts.jsonl"]
    drop_after(tmp_path, 64)
    assert [row["step"] for row in read_rollouts(tmp_path)] == [1, 33]


def test_a_damaged_file_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "rollouts.jsonl").write_text('{"step": 1}\n{"st\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"^Line 2 of `.*rollouts.jsonl` must be a JSON object, got '{\"st'\. Remove"):
        read_rollouts(tmp_path)
