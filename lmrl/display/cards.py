"""Cards that a notebook shows for objects in place of a line of text, and pictures of a run's log."""

import functools
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from lmrl.utils import check_at_least, name_of

from .curves import Log
from .wording import number

Lines: TypeAlias = Sequence[Sequence[str]]


def card(
    name: str,
    *,
    lead: str = "",
    facts: Mapping[str, str] | None = None,
    tables: Mapping[str, Lines] | None = None,
    charts: Iterable[str] = (),
    samples: Iterable[Mapping[str, Any]] = (),
) -> str:
    """
    Returns HTML that a notebook shows for an object: self-contained, escaped, light or dark like the page.

    Args:
        name (`str`), lead (`str`, *optional*):
            Heading, and a line below it.
        facts (`dict` of `str`, *optional*):
            Values by name.
        tables (`dict` of lists of lists of `str`, *optional*):
            Tables by their headings. The first line has the names of the columns, and a line of a single cell is a
            note. A cell such as `▲ +0.1 [+0.0, +0.2]` is a value with its interval, ▲ for better and ▼ for worse.
        charts (list of `str`, *optional*):
            SVG documents, as [`lmrl.display.charts`] draws them.
        samples (list of `dict`, *optional*):
            Completions side by side: `prompt`, and `texts`, each a label, pieces (text and whether it is marked), and
            a line below.
    """
    from .templating import render

    return render(
        "card.html",
        name=name,
        lead=lead,
        facts=facts or {},
        tables=tables or {},
        charts=list(charts),
        samples=list(samples),
    )


@dataclass(frozen=True, repr=False)
class Picture:
    """An SVG document, which notebooks, and sites that show notebooks, display as an image."""

    svg: str
    text: str  # a line for a terminal

    def __repr__(self) -> str:
        return self.text

    def _repr_svg_(self) -> str:
        return self.svg


def training_curves(log: Log | Mapping[str, Log], *, columns: int = 2) -> Picture:
    """
    Returns a picture of a run's curves, as in the report: rewards, KL, entropy, lengths, held-out scores.

    Args:
        log (list of `dict`, or `dict` of such lists):
            `trainer.state.log_history`, or those of several runs by label, drawn in the same charts.
        columns (`int`, *optional*, defaults to `2`):
            Number of charts side by side.

    Raises:
        ValueError: If the log has no numbers that can be drawn, or `columns` is less than 1.

    Example:

    ```python
    training_curves({"beta 0.05": first.state.log_history, "beta 0.2": second.state.log_history})
    ```
    """
    from .axes import HEIGHT, WIDTH
    from .charts import training_charts
    from .templating import render

    check_at_least(1, columns=columns)
    logs = log if isinstance(log, Mapping) else {"training": log}
    charts = training_charts(logs)
    if not charts:
        raise ValueError(f"`log` must have numbers of a step, got {sum(map(len, logs.values()))} lines. Train first.")
    places = [(place % columns * WIDTH, place // columns * HEIGHT, chart) for place, chart in enumerate(charts)]
    size = {"width": min(columns, len(charts)) * WIDTH, "height": places[-1][1] + HEIGHT}
    return Picture(render("grid.svg", places=places, **size), f"{len(charts)} charts of {', '.join(logs)}")


def reward_card(reward: Any) -> str:
    """Returns the card of a reward: its class, signature, and a table of it and of the rewards it is made of."""
    parts = getattr(reward, "_parts", ())
    return card(type(reward).__name__, lead=str(reward.signature), tables={"": reward_lines([reward, *parts])})


def reward_lines(rewards: Sequence[Any], weights: Sequence[float] | None = None) -> list[list[str]]:
    """Returns a table of reward functions of any kind: name, weight, range, and purpose according to the docstring."""
    lines = [["reward", "weight", "range", "what it wants"]]
    for place, reward in enumerate(rewards):
        inner = getattr(reward, "reward_func", reward)  # a trainer wraps rewards under the name that is logged
        low, high = getattr(inner, "range", ("", ""))
        bounds = f"{low:g} to {high:g}" if isinstance(low, float | int) else "any"
        weight = "1" if weights is None else f"{weights[place]:g}"
        lines.append([name_of(reward), weight, bounds, purpose(inner)])
    if weights is None:
        return [[name, *rest] for name, _, *rest in lines]
    return lines


def purpose(reward: Any) -> str:
    """Returns the first sentence of the docstring of a function or of an object's class, else an empty text."""
    reward = reward.func if isinstance(reward, functools.partial) else reward
    described = reward if inspect.isroutine(reward) else type(reward)
    paragraph = " ".join(inspect.cleandoc(described.__doc__ or "").split("\n\n")[0].split())
    sentence = re.match(r".*?[.:](?= |$)", paragraph)
    text = (sentence[0] if sentence else paragraph).rstrip(".:").removeprefix("Returns ")
    return re.sub(r"\[?`~?(?:[\w.]+\.)?([^`]*)`\]?", r"\1", text)


def better(text: str, is_better: bool | None) -> str:
    """Returns the text of a difference with ▲ or ▼ in place of its star, which stays without a better direction."""
    if not text.endswith("*") or is_better is None:
        return text
    return f"{'▲' if is_better else '▼'} {text.removesuffix('*')}"


def rates_marked(lines: Lines) -> list[list[str]]:
    """Returns the lines of a table with ▲ or ▼ in place of win rates' stars, for rates above or below a half."""
    return [[_rate_marked(text) for text in line] for line in lines]


def values_text(values: Mapping[str, float], most: int = 4) -> str:
    """Returns the first values with their names on one line: `bleu 58.28, length 15.62, ...`."""
    shown = [f"{name} {number(value)}" for name, value in list(values.items())[:most]]
    return ", ".join([*shown, "..."] if len(values) > most else shown)


def _rate_marked(text: str) -> str:
    if not text.endswith("]*"):
        return text.replace("* marks", "▲ and ▼ mark")
    return better(text, float(text.split()[0]) > 0.5)
