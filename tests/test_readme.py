"""README.md: short, and in the order in which a newcomer reads it."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
HEADINGS = [
    "Install",
    "Ten lines",
    "The demo",
    "Choose",
    "Recipes",
    "Your own data and reward",
    "What comes out",
    "Hardware and time",
    "Documentation",
    "Contributing, citing, licence",
]


def test_the_readme_has_at_most_1300_words() -> None:
    assert len(README.split()) <= 1300


def test_the_sections_of_the_readme_are_in_their_order() -> None:
    assert re.findall(r"^## (.+)$", README, flags=re.MULTILINE) == HEADINGS


def test_every_page_of_the_docs_is_linked_from_the_readme() -> None:
    docs = Path(__file__).resolve().parents[1] / "docs"
    pages = {f"docs/{path.name}" for kind in ("*.md", "*.ipynb") for path in docs.glob(kind)}
    assert pages - {"docs/index.md"} <= set(re.findall(r"\]\(([^)#]+)\)", README))


def test_the_example_has_at_most_ten_lines_and_prints_what_stands_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code, shown), *_ = re.findall(r"```python\n(.*?)```\s+```text\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})  # the project's own README
    printed = capsys.readouterr().out
    assert re.sub(r"[\d.]+", "", printed) == re.sub(r"[\d.]+", "", shown)
    numbers = [[float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)] for text in (printed, shown)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.05)  # threads change the last digits
