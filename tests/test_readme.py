"""The README names nothing that is not there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def readme() -> str:
    """Returns the README, or skips while there is none."""
    path = ROOT / "README.md"
    if not path.exists():
        pytest.skip("README.md not written yet")
    return path.read_text(encoding="utf-8")


def test_files_named_in_the_readme_exist(readme: str) -> None:
    named = set(re.findall(r"(?<![\w/.:-])(?:\./)?((?:scripts|recipes|tests|lmrl|\.ci)/[\w./-]*[\w/])", readme))
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing, f"README.md names {missing}, which are not in the tree"


def test_python_in_the_readme_is_python(readme: str) -> None:
    for block in re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL):
        ast.parse(block)
