"""The frontier of a reward against its KL: runs that are there are shown, and not made again."""

from pathlib import Path

import pytest
from launching import run_benchmark

from lmrl.evaluation import Completion, Evaluation, write_json
from lmrl.evaluation.rows import row_ids
from lmrl.evaluation.scores import mean_score


def test_runs_that_are_there_are_shown_together(tmp_path: Path) -> None:
    runs = {"beta_0.1": 0.75, "constant_reward": 0.5}
    for folder, share in runs.items():
        for name, values in (("before", [0.0, 1.0]), ("after", [share, share])):
            scores = [mean_score("positive", "share", values, True), mean_score("kl", "nats", [0.0, 2.0], False)]
            completions = [Completion(row, 0, "a", 1, True) for row in range(2)]
            ids = row_ids([{"prompt": "a"}, {"prompt": "b"}])
            found = Evaluation(completions, {score.name: score for score in scores}, {}, ids)
            (tmp_path / folder).mkdir(exist_ok=True)
            write_json(tmp_path / folder / f"{name}.json", found)
    out = run_benchmark("frontier.py", "--betas", "0.1", "--out", tmp_path)
    rows = [line.split() for line in out.splitlines() if line.strip()]
    assert ["start", "0.500", "1.000"] in rows and ["beta", "0.1", "0.750", "1.000"] in rows
    assert ["constant", "reward", "0.500", "1.000"] in rows
    assert (tmp_path / "frontier.svg").is_file()
    out = run_benchmark("frontier.py", "--betas", "0.1", "--out", tmp_path, "--beside", tmp_path)
    assert ["beta", "0.1,", tmp_path.name, "0.750", "1.000"] in [line.split() for line in out.splitlines()]
    with pytest.raises(AssertionError, match="--beside must be a folder of such runs"):
        run_benchmark("frontier.py", "--betas", "0.1", "--out", tmp_path, "--beside", tmp_path / "beta_0.1")
    with pytest.raises(AssertionError, match="error: --metric must be one of positive, kl, got 'blue'"):
        run_benchmark("frontier.py", "--betas", "0.1", "--out", tmp_path, "--metric", "blue")
    assert run_benchmark("frontier.py", "--betas", "0.1", "--only", "beta 0.1", "--out", tmp_path) == ""
    with pytest.raises(AssertionError, match="--only must be one of"):
        run_benchmark("frontier.py", "--betas", "0.1", "--only", "beta 1", "--out", tmp_path)
