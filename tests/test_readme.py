"""README.md: short, and in the order in which a newcomer reads it."""

import re
from pathlib import Path

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
    pages = {f"docs/{path.name}" for path in (Path(__file__).resolve().parents[1] / "docs").glob("*.md")}
    assert pages - {"docs/index.md"} <= set(re.findall(r"\]\(([^)#]+)\)", README))


def test_the_first_example_has_at_most_ten_lines_of_code() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
