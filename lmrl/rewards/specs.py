"""Rewards from their names in a configuration file or on a command line."""

import difflib
import functools
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .algebra import Product, Scaled, Weighted
from .bertscore import BERTScore
from .bleu import BLEU
from .chrf import ChrF
from .cider import CIDErD
from .classifier import Classifier
from .content import Format, Keywords, SlotCoverage
from .fluency import Fluency
from .gleu import GLEU
from .hub import EvaluateMetric
from .meteor import METEOR
from .nist import NIST
from .normalize import Normalized
from .retried import Retried
from .reward_model import RewardModel
from .rouge import Rouge
from .similarity import EditSimilarity, ExactMatch, TokenF1
from .slow import Cached, InWorkers
from .ter import TER
from .text import DistinctN, Length, LengthPenalty
from .transform import Clipped, Gate, Minimum, Threshold

REWARDS: dict[str, Callable[..., Any]] = {
    "bleu": BLEU,
    "chrf": ChrF,
    "rouge1": functools.partial(Rouge, "rouge1"),
    "rouge2": functools.partial(Rouge, "rouge2"),
    "rougeL": functools.partial(Rouge, "rougeL"),
    "rougeLsum": functools.partial(Rouge, "rougeLsum"),
    "exact_match": ExactMatch,
    "gleu": GLEU,
    "ter": TER,
    "meteor": METEOR,
    "cider": CIDErD,
    "nist": NIST,
    "bertscore": BERTScore,
    "evaluate": EvaluateMetric,
    "token_f1": TokenF1,
    "edit_similarity": EditSimilarity,
    "length": Length,
    "length_penalty": LengthPenalty,
    "distinct_n": DistinctN,
    "format": Format,
    "keywords": Keywords,
    "slot_coverage": SlotCoverage,
    "classifier": Classifier,
    "reward_model": RewardModel,
    "fluency": Fluency,
    "cached": Cached,
    "in_workers": InWorkers,
    "retried": Retried,
    "weighted": Weighted,
    "product": Product,
    "minimum": Minimum,
    "gate": Gate,
    "threshold": Threshold,
    "clipped": Clipped,
    "scaled": Scaled,
    "normalized": Normalized,
}

_WITHOUT_KEY = ("weighted", "product", "minimum")  # what follows the name are their `rewards`
_TERM = {"reward", "weight"}


def make_reward(spec: str | Mapping[str, Any]) -> Callable[..., Any]:
    """
    Returns the reward that a configuration names.

    Args:
        spec (`str` or `Mapping`):
            - a name in [`REWARDS`]: `"bleu"`;
            - a mapping of one name to its arguments, `{"rougeL": {"use_stemmer": True}}`, or the JSON text of one;
            - one made of others, whose arguments `reward`, `rewards` and `when` are written like this in turn:
              `{"clipped": {"reward": "bleu", "high": 0.5}}`, `{"product": ["bleu", {"length": {"target": 20}}]}`,
              `{"weighted": {"bleu": 0.7, "rougeL": 0.3}}`. A weighted component with arguments is an item of a list,
              `{"weighted": [{"reward": {"length": {"target": 20}}, "weight": 0.3}]}`;
            - the user's own, as `"path/to/file.py:name"` or `"package.module:name"`: any callable that TRL takes as a
              reward function. A class is constructed, with the arguments given. The file is run.

    Returns:
        `Callable`: a reward to be put into `reward_funcs`.

    Raises:
        ValueError: for an unknown name or argument, a missing argument, or a file, module or attribute not found.

    Example:

    ```python
    >>> make_reward({"bleu": {"lowercase": True}}).signature.rpartition("|")[0]
    'bleu|nrefs:var|case:lc|eff:yes|tok:13a|smooth:exp'
    ```
    """
    name, arguments = _name_and_arguments(spec)
    if name in REWARDS:
        return _constructed(name, REWARDS[name], _made_of_rewards(name, arguments))
    if ":" in name:
        return _own_reward(name, arguments)
    close = difflib.get_close_matches(name, REWARDS, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"Unknown reward {name!r}.{hint} Known are {', '.join(REWARDS)}. Name your own as path/to/file.py:function or "
        "package.module:attribute."
    )


def make_rewards(specs: Iterable[str | Mapping[str, Any]]) -> list[Callable[..., Any]]:
    """Returns [`make_reward`] of each."""
    if isinstance(specs, (str, Mapping)) or not isinstance(specs, Iterable):
        raise ValueError(f"Expected a list of rewards, got {specs!r}. Put it into a list, or use `make_reward`.")
    return [make_reward(spec) for spec in specs]


def _made_of_rewards(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments with rewards in place of those that name them."""
    made: dict[str, Any] = {key: make_reward(value) for key, value in arguments.items() if key in ("reward", "when")}
    if "rewards" in arguments:
        made["rewards"] = (_weighted if name == "weighted" else make_rewards)(arguments["rewards"])
    return arguments | made


def _weighted(terms: Any) -> list[tuple[Callable[..., Any], float]]:
    """Returns the rewards and weights of a sum, written as `{name: weight}` or `[{reward: ..., weight: ...}]`."""
    pairs = list(terms.items()) if isinstance(terms, Mapping) else []
    if isinstance(terms, list) and all(isinstance(term, Mapping) and term.keys() == _TERM for term in terms):
        pairs = [(term["reward"], term["weight"]) for term in terms]
    if not pairs or any(isinstance(weight, bool) or not isinstance(weight, (int, float)) for _, weight in pairs):
        raise ValueError(
            "`weighted` is a mapping of names to weights, {bleu: 0.7, rougeL: 0.3}, or, for rewards with arguments, a "
            f"list of {{reward: ..., weight: ...}}, got {terms!r}."
        )
    return [(make_reward(spec), weight) for spec, weight in pairs]


def _name_and_arguments(spec: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    given = spec
    if isinstance(spec, str) and spec.lstrip().startswith("{"):
        try:
            spec = json.loads(spec)
        except json.JSONDecodeError as error:
            example = json.dumps({"length": {"target": 20}})
            raise ValueError(f"Not JSON: {given!r} ({error}). Write it as in {example}.") from error
    if isinstance(spec, str):
        return spec.strip(), {}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise ValueError(f"A reward is a name or a mapping of one name to its arguments, got {given!r}.")
    ((name, arguments),) = spec.items()
    if name in _WITHOUT_KEY and not (isinstance(arguments, Mapping) and "rewards" in arguments):
        arguments = {"rewards": arguments}
    if not isinstance(name, str) or not isinstance(arguments, Mapping | None):
        raise ValueError(f"The arguments of a reward are a mapping of names to values, got {given!r}.")
    return name, dict(arguments or {})


def _own_reward(name: str, arguments: dict[str, Any]) -> Callable[..., Any]:
    own = _attribute(name)
    if inspect.isclass(own):
        own = _constructed(name, own, arguments)
    elif arguments:
        raise ValueError(f"{name!r} is no class and takes no arguments, got {arguments}. Bind them in its module.")
    if not callable(own):
        raise ValueError(f"{name!r} cannot be called: it is of type {type(own).__name__}. Name a function or a class.")
    reward: Callable[..., Any] = own
    return reward


def _constructed(name: str, constructor: Callable[..., Any], arguments: dict[str, Any]) -> Callable[..., Any]:
    parameters = inspect.signature(constructor).parameters.values()
    accepted = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    unknown = arguments.keys() - accepted.keys()
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise ValueError(f"The reward {name!r} has no argument {sorted(unknown)}. It accepts {list(accepted)}.")
    missing = [key for key, p in accepted.items() if p.default is p.empty and key not in arguments]
    if missing:
        raise ValueError(f"The reward {name!r} needs {missing}: write {{{name!r}: {{{missing[0]!r}: ...}}}}.")
    try:
        reward: Callable[..., Any] = constructor(**arguments)
    except (ValueError, OSError, ImportError):  # sentences
        raise
    except Exception as error:
        raise ValueError(
            f"The reward {name!r} cannot be made with {arguments}: {type(error).__name__}: {error}."
        ) from error
    return reward


def _attribute(name: str) -> Any:
    where, _, attribute = name.rpartition(":")
    module = _module_of_file(Path(where)) if where.endswith(".py") else _module_of_name(where)
    if not hasattr(module, attribute):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{where} has no {attribute!r} (in {name!r}). Callables there: {public}.")
    return getattr(module, attribute)


def _module_of_name(where: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise ValueError(f"No module {where!r} to take a reward from ({error}). Is it installed?") from error


def _module_of_file(path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    name = f"rewards_of_{path}".replace(".", "_")  # a dot would make it a part of a package
    if name in sys.modules:  # two rewards of one file share its module
        return sys.modules[name]
    if not path.is_file():
        raise ValueError(f"No file {path} to take a reward from.")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be loaded as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look a class up by its module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception):
            raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}. Mend it.") from error
        raise
    return module
