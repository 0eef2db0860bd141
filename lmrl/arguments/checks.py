"""Reads rewards from a command line, and checks that several groups of arguments share."""

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lmrl.settings import without_secrets
from lmrl.utils import parse_json, shorten


def reward_spec(text: str) -> str | dict[str, Any]:
    """Returns a reward from a command line: `bleu`, or JSON with options such as `{"length": {"target": 20}}`."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return dict(parse_json(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be valid JSON, got {text!r} ({error}). Quote it in '...'.") from error


# The parser calls the item type of a list to read each item, so at run time this type is the function.
if TYPE_CHECKING:
    RewardSpec = str | dict[str, Any]
else:
    RewardSpec = reward_spec


def check_specs(name: str, specs: Iterable[str | dict[str, Any]]) -> None:
    """Raises an error for a reward that is neither a name nor a mapping with one key."""
    for spec in specs:
        if isinstance(spec, str) and "," in spec and not {":", "{"} & set(spec):
            raise ValueError(f"`{name}` must have names with spaces between them, got {spec!r}. Leave out the comma.")
        if not (isinstance(spec, str) and spec) and not (isinstance(spec, dict) and len(spec) == 1):
            raise ValueError(
                f'`{name}` must have names, or names with options such as {{"name": {{}}}}, got {shorten(spec)}.'
            )
        options: Any = json_object(name, spec) if isinstance(spec, str) and spec.lstrip().startswith("{") else spec
        if (shown := without_secrets(options)) != options:
            raise ValueError(
                f"`{name}` must have no access token, key or password, got {shorten(shown)}: the files of a run have "
                "its arguments. Have your reward read it from the environment."
            )


def json_object(name: str, text: str) -> dict[str, Any]:
    """Returns the JSON object that is the value of the argument `name`; raises a `ValueError` if it is none."""
    try:
        return dict(parse_json(text))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be a JSON object, got {text!r} ({error}). Quote it in '...'.") from error
