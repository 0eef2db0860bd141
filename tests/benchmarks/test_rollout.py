"""The benchmark of a rollout runs on a tiny model, whose completions have the lengths of the workload."""

import json

from launching import run_benchmark


def test_lmrl_computes_few_positions_more_than_count(tmp_path):
    options = ("--small", "--cpu", "--repeats", "1", "--threads", "1", "--workloads", "e2e", "--only", "reinforce")
    printed = run_benchmark("rollout.py", *options, "--json", tmp_path / "rollout.json")
    row = json.loads((tmp_path / "rollout.json").read_text())["results"]["e2e"]["summary"]["reinforce"]
    assert 0.5 < row["positions"]["scored"] < 1.3 and row["seconds"] > row["stages"]["generation"] > 0
    assert "reinforce" in printed and "positions computed for each that counts" in printed
