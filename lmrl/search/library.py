"""Optuna, which is not installed with lmrl."""

from typing import Any


def optuna() -> Any:
    """
    Returns Optuna, which then speaks of warnings only.

    Raises:
        ImportError: In a sentence, if it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError("optuna is not installed, and a sweep needs it: pip install 'lmrl[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
