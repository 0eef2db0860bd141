"""Any module of Hugging Face's `evaluate` as a reward."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from lmrl.libraries import evaluate

from .algebra import Reward
from .base import UNBOUNDED, Columns, Prompts, Scores


@dataclass(eq=False, repr=False)
class EvaluateMetric(Reward):
    """
    Returns what a module of the `evaluate` library computes for each completion.

    Each row is computed by itself, which takes some milliseconds: lmrl's own metrics are faster. What the number means
    for a single text depends on the module (evaluate's `bleu` is unsmoothed: 0 without a matching 4-gram). NaN becomes
    `None`. A module given by name is a program that is downloaded from the hub, or taken from evaluate's cache, and
    run: name only those that you trust. Given by name or folder, it is not pickled, but loaded again.

    Args:
        module (`str`, `Path` or `evaluate.EvaluationModule`):
            Name on the hub, folder, or loaded module.
        key (`str`, *optional*):
            Which of the module's results is the reward. Defaults to the only one that is a number.
        kwargs (`dict`, *optional*):
            Further arguments of the module's `compute`.
        column (`str`, *optional*, defaults to `"references"`):
            Dataset column passed as `references`, or `None` for a module without them. A list of a single string is
            passed as that string to a module that takes no lists.
        per_row (`bool`, *optional*, defaults to `True`):
            Whether rows are computed one by one. `False` is for modules that return a list of a number per row
            (`bertscore`, `toxicity`), and computes a batch at once.
        higher_is_better (`bool`, *optional*, defaults to `True`):
            Whether the reward is the result; `False` takes its negative, as for error rates.
        name (`str`, *optional*):
            Name under which trainers log it. Defaults to the module's.

    Raises:
        ValueError: If there is no such module, or it takes other inputs; and when called, if `key` names no number
            among the results, or if the module fails, which some do on an empty text.
    """

    module: Any
    key: str | None = None
    kwargs: Mapping[str, Any] | None = None
    column: str | None = "references"
    per_row: bool = True
    higher_is_better: bool = True
    name: str | None = None

    def __post_init__(self) -> None:
        self.kwargs = dict(self.kwargs or {})
        code = f"{self._module.name}@{(self._module._hash or 'unknown')[:8]}"
        options = f"kwargs:{self.kwargs}|higher_is_better:{self.higher_is_better}|per_row:{self.per_row}"
        super().__init__(
            self.name or self._module.name,
            () if self.column is None else (self.column,),
            UNBOUNDED,
            f"evaluate|module:{code}|key:{self.key}|{options}|version:{evaluate.__version__}",
        )
        inputs = {"predictions", "references"} if self.column else {"predictions"}
        features = self._module.features
        formats = list(features) if isinstance(features, list) else [features]  # names and types of the inputs
        takes = set(formats[0])
        if takes != inputs:
            raise ValueError(
                f"The inputs of the module {self._module.name!r} must be {sorted(inputs)}, got {sorted(takes)}. Set "
                "`column` to fit (`None` is without references), or take another module."
            )
        # A format's type is `Value("string")` or a list, which has no dtype.
        self._no_lists = all(getattr(f.get("references"), "dtype", None) == "string" for f in formats)

    @functools.cached_property
    def _module(self) -> Any:
        if not isinstance(self.module, (str, Path)):
            return self.module
        try:
            return evaluate.load(str(self.module), keep_in_memory=True)  # else every row is written to disk and read
        except FileNotFoundError as error:
            raise ValueError(
                f"No `evaluate` module {str(self.module)!r} ({error}). Name one of the hub, or a folder `name` with "
                "`name.py` in it."
            ) from error

    def scores(self, completions: list[str], prompts: Prompts, columns: Columns) -> Scores:
        """Returns the chosen result for each text."""
        references = self._references(columns)
        if not self.per_row:
            return self._computed(completions, references, "the batch", len(completions)) if completions else []
        rewards = []
        for row, text in enumerate(completions):
            reference = references[row : row + 1] if references else None
            rewards += self._computed([text], reference, f"row {row} of the batch", 1)
        return rewards

    def corpus_value(self, completions: list[str], columns: Columns) -> float:
        """Returns the result for all texts at once, as of a corpus metric; without `per_row`, the mean over rows."""
        numbers = 1 if self.per_row else len(completions)
        found = self._computed(completions, self._references(columns), "the corpus", numbers)
        values = [value for value in found if value is not None]
        return math.fsum(values) / len(values) if values else math.nan

    def _references(self, columns: Columns) -> list[Any] | None:
        if self.column is None:
            return None
        values = columns[self.column]
        return [v[0] if self._no_lists and isinstance(v, (list, tuple)) and len(v) == 1 else v for v in values]

    def _computed(self, texts: list[str], references: list[Any] | None, where: str, numbers: int) -> Scores:
        inputs = {"predictions": texts} | ({"references": references} if references else {})
        try:
            result = self._module.compute(**inputs, **(self.kwargs or {}))
        except Exception as error:  # whatever the module raises
            raise ValueError(
                f"The reward {self.__name__!r} failed on {where} with {type(error).__name__}: {error}. Its inputs "
                f"were {inputs} and {self.kwargs}. Correct or drop the row, or wrap the module."
            ) from error
        sign = 1.0 if self.higher_is_better else -1.0
        return [None if math.isnan(value) else sign * value for value in self._numbers(result, numbers)]

    def _numbers(self, result: Mapping[str, Any], rows: int) -> list[float]:
        """Returns the result named by `key`, or the only one that is a number for each row."""
        found = {}
        for key, value in result.items():
            value = value.tolist() if hasattr(value, "tolist") else value  # of NumPy
            values = value if isinstance(value, (list, tuple)) else [value] if self.per_row else []
            if len(values) == rows and all(isinstance(n, Real) and not isinstance(n, bool) for n in values):
                found[key] = [float(number) for number in values]
        chosen = next(iter(found)) if self.key is None and len(found) == 1 else str(self.key)
        if chosen not in found:
            kind = "a number" if self.per_row else "a list of a number per row"
            raise ValueError(
                f"The reward {self.__name__!r} needs `key` to name {kind} among its module's results, got "
                f"{self.key!r}. Of that kind are {sorted(found)}, not {sorted(result.keys() - found.keys())}."
            )
        return found[chosen]
