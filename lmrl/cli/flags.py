"""Flags of the terminal commands, and argparse's messages as rules. Only the standard library is imported."""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from lmrl.utils import did_you_mean

# argparse's messages, and the rule that replaces each.
_ARGPARSE_MESSAGES = (
    (r"invalid float value: (.*)", r"must be a number, got \1."),
    (r"invalid int value: (.*)", r"must be an integer, got \1."),
    (r"invalid (\S+) value: (.*)", r"must be of type \1, got \2."),
    (r"Truthy value expected: got (.*) but expected.*", r"must be yes or no, got '\1'."),
    (r"expected (?:at least )?one argument", r"must have a value, got none."),
    (r"(must be .*)", r"\1"),  # from lmrl.arguments
)


class FlagParser(argparse.ArgumentParser):
    """
    A parser of flags and positional words that raises errors instead of exiting. If `usage` is given, `--help` prints
    it with the description and the flags.
    """

    def __init__(self, usage: str | None = None, description: str | None = None) -> None:
        super().__init__(usage=usage, description=description, add_help=usage is not None, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raises a `ValueError` with the message that argparse would print before it exits."""
        raise ValueError(as_rule(message))

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Returns the values of flags and positional arguments; raises a `ValueError` for an unknown flag."""
        values, unknown = self.parse_known_intermixed_args(list(words))
        if unknown:
            flags = [action.option_strings[-1] for action in self._actions if action.option_strings]
            hint = did_you_mean(unknown[0].split("=")[0], flags) or f" Known are {', '.join(flags)}."
            raise ValueError(f"Unknown argument `{unknown[0]}`.{hint}")
        return values


def as_rule(message: str) -> str:
    """Returns a message of argparse as a rule: `name` must be ..., got ... ."""
    if (match := re.fullmatch(r"argument --(\w+)\S*: (.*)", message, flags=re.DOTALL)) is None:
        return message
    name, problem = match.groups()
    if choices := re.fullmatch(r"invalid choice: (.*) \(choose from (.*)\)", problem, flags=re.DOTALL):
        value = choices[1]
        allowed = choices[2].replace("'", "")
        hint = did_you_mean(value.strip("'"), allowed.split(", "))
        return f"`{name}` must be one of {allowed}, got {value}.{hint}"
    for pattern, rule in _ARGPARSE_MESSAGES:
        if re.fullmatch(pattern, problem, flags=re.DOTALL):
            return f"`{name}` {re.sub(pattern, rule, problem, count=1, flags=re.DOTALL)}"
    return f"`{name}`: {problem}"
