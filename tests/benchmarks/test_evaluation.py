"""The benchmark of the evaluation runs, and what the benchmarks share reads arguments and aligns tables."""

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
from launching import BENCHMARKS, run_benchmark


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that the benchmarks share."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("_common")


def test_it_times_each_metric(tmp_path: Path) -> None:
    rows = [{"references": [f"a trail of {n} km", f"the trail has {n} km"]} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sizes = ("--rows", "8", "--references", "2", "--samples", "20", "--trials", "20", "--metrics", "bleu,length")
    lines = run_benchmark("evaluation.py", tmp_path / "rows.jsonl", *sizes).splitlines()
    assert lines[0] == "8 completions, 2.0 references each"
    assert [line.split()[0] for line in lines[3:5]] == ["bleu", "length"]
    assert "s for an interval of 20 draws" in lines[-1]


def test_names_keep_their_order_and_unknown_ones_are_refused(common: ModuleType) -> None:
    assert common.names_of(["a", "b", "c"])("c,a") == ["a", "c"]
    with pytest.raises(argparse.ArgumentTypeError, match="must be some of a,b, got d"):
        common.names_of(["a", "b"])("a,d")
    assert common.integer_from(2)("2") == 2
    with pytest.raises(argparse.ArgumentTypeError, match="must be at least 2, got 1"):
        common.integer_from(2)("1")


def test_a_table_is_aligned(common: ModuleType) -> None:
    assert common.aligned([["", "s"], ["floor", "10"]]) == "        s\nfloor  10"
    assert common.aligned([["a", "bb", "c"], ["aa", "b", "cc"]], left=2) == "a   bb   c\naa  b   cc"
