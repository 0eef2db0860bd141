"""The benchmark of the rewards runs, and notices a reward that is not the library's."""

import importlib
import json
import sys

import pytest
from launching import BENCHMARKS, run_benchmark

from lmrl.rewards import BLEU


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """The script as a module, with the texts of the demo corpus."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("LMRL_DATA", str(tmp_path))
    monkeypatch.delitem(sys.modules, "_texts", raising=False)
    monkeypatch.delitem(sys.modules, "rewards", raising=False)
    return importlib.import_module("rewards")


def test_it_runs_on_the_demo_corpus_and_finds_equal_scores(tmp_path):
    sizes = ("--only", "bleu,chrf,rougeLsum", "--rows", "2", "--rounds", "1")
    run_benchmark("rewards.py", *sizes, "--json", tmp_path / "speed.json", LMRL_DATA=str(tmp_path))
    results = json.loads((tmp_path / "speed.json").read_text())["results"]
    assert list(results) == ["bleu", "chrf", "rougeLsum"]
    assert all(row["new"]["ratio"] > 0 and row["difference"] < 1e-9 for row in results.values())


def test_scores_that_differ_end_it_with_an_error(benchmark, monkeypatch):
    contest = benchmark.CONTESTS["bleu"]
    other = benchmark.Contest(lambda: [BLEU(lowercase=True)], contest.library)
    monkeypatch.setitem(benchmark.CONTESTS, "bleu", other)
    monkeypatch.setattr(sys, "argv", ["rewards.py", "--only", "bleu", "--rows", "2", "--rounds", "1"])
    with pytest.raises(SystemExit, match=r"differ by more than 1e-09.*bleu"):
        benchmark.main()


def test_completions_are_the_same_in_every_run_and_differ_between_passes(benchmark):
    texts = benchmark.sentences(3, 4, 2)
    assert texts == benchmark.sentences(3, 4, 2)
    assert texts.completions[0] != texts.completions[1]
    assert [len(row) for row in texts.completions[0]] == [4, 4, 4]
