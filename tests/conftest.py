"""Settings and fixtures of all tests: offline, on a CPU, one thread, seeded, with tiny real models."""

import logging
import os
import random
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the numbers expected are a CPU's; CUDA_VISIBLE_DEVICES=0 overrides
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes with all threads each are slower than one

import hypothesis
import numpy as np
import pytest
import torch
from tiny import tiny_gpt2, tiny_llama
from transformers.utils import logging as transformers_logging

ROOT = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("lmrl", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("lmrl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest tests first, so that no worker is left alone with one at the end."""

    def minutes(item: pytest.Item) -> float:
        marker = item.get_closest_marker("slow")
        return marker.kwargs.get("minutes", 1) if marker else 0

    items.sort(key=minutes, reverse=True)
    # Each worker gets two tests to begin with: not the two longest.
    items[1:3] = reversed(items[1:3])


@pytest.fixture(autouse=True)
def process_settings() -> Iterator[None]:
    """
    Gives back what a run sets for all of its process: a trainer with a `log_level` the verbosity of transformers, by
    which a later one prints its log or shows a bar, and a recipe how warnings look and the bars of loading.
    """
    verbosity = transformers_logging.get_verbosity()
    hook = transformers_logging._tqdm_hook
    format_warning = warnings.formatwarning
    formatter = logging.lastResort.formatter
    yield
    transformers_logging.set_verbosity(verbosity)
    transformers_logging.set_tqdm_hook(hook)
    warnings.formatwarning = format_warning
    logging.lastResort.setFormatter(formatter)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Seeds every random number generator before each test."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Returns the folder that `LMRL_DATA` names, with real data and models; skips the test without it."""
    if "LMRL_DATA" not in os.environ:
        pytest.skip("LMRL_DATA is not set: it names the folder with data/, models/ and metric_refs/")
    folder = Path(os.environ["LMRL_DATA"]).resolve()
    missing = [name for name in ("data", "models", "metric_refs") if not (folder / name).is_dir()]
    if missing:
        pytest.fail(f"`LMRL_DATA` must name a folder with {'/, '.join(missing)}/, got {folder}.", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def gpt2_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Returns the folder of a tiny random GPT-2, with learned positions and dropout, and its tokenizer."""
    return tiny_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def llama_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Returns the folder of a tiny random Llama, with rotary positions, and its tokenizer."""
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Returns a function that runs a recipe as its command line does, and returns exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *argv: str) -> tuple[int, str, str]:
        path = ROOT / "recipes" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, argv)])
        status = 0
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as stopped:
            status = stopped.code
        return (status, *capsys.readouterr())

    return call


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Returns a function that calls `lmrl`, and returns its exit status, stdout and stderr."""
    from lmrl.__main__ import main

    def call(*argv: object) -> tuple[int, str, str]:
        status = 0
        capsys.readouterr()
        try:
            main([str(word) for word in argv])
        except SystemExit as stopped:
            status = stopped.code
        return (status, *capsys.readouterr())

    return call
