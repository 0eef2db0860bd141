"""Warnings for names that will be removed, each with the version in which it goes."""

import warnings

from lmrl.version import __version__


def warn_deprecated(old: str, new: str, removed_in: str) -> None:
    """
    Warns that a name, as users write it, is deprecated, and of what to write instead. From the version `removed_in`
    on, such as `0.3.0`, it raises a `RuntimeError`: the code for the old name must be deleted.
    """
    if _as_numbers(__version__) >= _as_numbers(removed_in):
        raise RuntimeError(f"`{old}` was to be removed in lmrl {removed_in}, and this is {__version__}: delete it.")
    warnings.warn(
        f"`{old}` is deprecated and will be removed in lmrl {removed_in}. Use `{new}`.", FutureWarning, stacklevel=3
    )


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])
