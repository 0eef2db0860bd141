"""What is written while training runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from training import ALGORITHMS, make_trainer
from transformers import TrainerCallback


def rows_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse_constant) for line in lines]


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


class Reader(TrainerCallback):
    """Reads the file at the end of each step."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append(len(rows_of(self.folder)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_log_is_in_the_output_folder_while_training_runs(algorithm: str, gpt2_path: str, tmp_path: Path) -> None:
    reader = Reader(tmp_path / "out")
    trainer = make_trainer(algorithm, gpt2_path, tmp_path / "out", callbacks=[reader], max_steps=3)
    trainer.train()
    assert reader.seen == [0, 1, 2]
    assert rows_of(tmp_path / "out") == trainer.state.log_history
    assert [row["step"] for row in rows_of(tmp_path / "out")] == [1, 2, 3, 3]


def test_a_resumed_run_goes_on_with_the_log_of_its_checkpoint(gpt2_path: str, tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 3}
    make_trainer("reinforce", gpt2_path, tmp_path / "out", **options).train()
    (tmp_path / "out" / "log.jsonl").open("a").write('{"step": 99}\n{"cut sho')  # what a kill may leave
    trainer = make_trainer("reinforce", gpt2_path, tmp_path / "out", **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert rows_of(tmp_path / "out") == trainer.state.log_history
    assert [row["step"] for row in rows_of(tmp_path / "out") if "loss" in row] == [1, 2, 3]


def test_a_save_that_a_callback_requests_is_not_withdrawn_by_an_evaluation(gpt2_path: str, tmp_path: Path) -> None:
    class SecondStep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_save |= state.global_step == 2

    bleu = iter([3.0, 2.0, 1.0])
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "metric_for_best_model": "bleu"}
    trainer = make_trainer(
        "reinforce",
        gpt2_path,
        tmp_path,
        eval_dataset=[{"prompt": "a b"}],
        held_out_metrics=lambda policy: {"bleu": next(bleu)},
        callbacks=[SecondStep()],
        max_steps=3,
        **options,
    )
    trainer.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")


def test_a_metric_without_a_value_is_null_in_the_log(gpt2_path: str, tmp_path: Path) -> None:
    metrics = {"cider": float("nan"), "ratio": float("inf"), "bleu": 0.5}
    options = {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": [{"prompt": "a b"}]}
    trainer = make_trainer(
        "reinforce", gpt2_path, tmp_path, max_steps=1, held_out_metrics=lambda policy: metrics, **options
    )
    trainer.train()
    row = next(row for row in rows_of(tmp_path) if "eval_bleu" in row)
    assert (row["eval_cider"], row["eval_ratio"], row["eval_bleu"]) == (None, None, 0.5)
