"""The version of lmrl, which pyproject.toml reads from here, and those of the packages on which a result depends."""

import platform
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.2.0.dev0"

_PACKAGES = ("lmrl", "trl", "torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "sacrebleu")


def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of the installed packages on which a score or a model depends."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue  # optional, or run from a checkout that is not installed
    return versions
