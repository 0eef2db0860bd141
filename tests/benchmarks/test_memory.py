"""The benchmark of memory runs on a tiny model, and its variants train on the same rewards."""

import json

from launching import run_benchmark


def test_variants_train_alike_and_shared_models_take_less(tmp_path):
    sizes = ("--layers", "1", "--width", "64", "--vocabulary", "200", "--new-tokens", "4", "--prompt-length", "4")
    results_to = ("--json", tmp_path / "memory.json")
    printed = run_benchmark("memory.py", "--cpu", *sizes, "--only", "full,reward_adapter", *results_to)
    results = json.loads((tmp_path / "memory.json").read_text())["results"]
    assert list(results) == ["full", "reward_adapter"]
    full, shared = results["full"], results["reward_adapter"]
    assert full["training"] > 0 and full["with_loading"] >= full["training"]
    assert abs(full["reward"] - shared["reward"]) < 1e-4 and full["kl"] == shared["kl"] == 0
    assert shared["trained"] < full["trained"] / 2
    assert "all four models, all weights trained" in printed and " 1.00 " in printed
