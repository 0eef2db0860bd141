"""Remedies for words of a command line, or lines of a YAML file, that cannot be read."""

from collections.abc import Iterable
from fnmatch import fnmatch

import yaml

from lmrl.utils import did_you_mean, shorten

from .blocks import owners_of

# Flags of `accelerate launch`, as patterns. Its own parser takes a second to import.
_OF_LAUNCHER = (
    *("num_processes", "num_machines", "machine_rank", "main_process_*", "mixed_precision", "num_cpu_threads_*"),
    *("config_file", "gpu_ids", "multi_gpu", "cpu", "dynamo_*", "use_fsdp", "fsdp_*", "use_deepspeed", "zero_*"),
)

# Names that other programs use for an argument.
_ELSEWHERE = {"lr": "learning_rate", "n_epochs": "num_train_epochs", "output": "output_dir"}


def remedy_for(text: str, known: Iterable[str], of_other_recipes: str = "") -> str:
    """
    Returns the remedy for a word of a command line that no argument takes, such as `--lerning_rate`, or a value
    without its argument. `known` are the names of the recipe's arguments; `of_other_recipes` is advice to add if the
    argument belongs to other recipes.
    """
    known = list(known)
    name = text.lstrip("-").partition("=")[0].replace("-", "_")
    if not text.startswith("-") and name in known:
        return f" Did you mean `--{text}`?"
    # evaluate_gen.py, for example, has the folder of results under a name of its own.
    owners = None if f"eval_{name}" in known else owners_of(name)
    if owners:
        return f" It belongs to {owners}.{of_other_recipes}"
    if text.startswith("-") and any(fnmatch(name, pattern) for pattern in _OF_LAUNCHER):
        return " It belongs to `accelerate launch` and `lmrl run`: write it before the recipe."
    if _ELSEWHERE.get(name) in known:
        return f" Did you mean `--{_ELSEWHERE[name]}`?"
    words = set(name.split("_"))
    having = [f"`--{other}`" for other in known if words <= set(other.split("_"))][:3]
    if having:
        return f" Did you mean {' or '.join(having)}?"
    return did_you_mean(name, known, "--") or " `--help all` prints all of them."


def yaml_problem(error: Exception, text: str) -> str:
    """Returns where and how a YAML text is malformed, with a remedy for common reasons: a tab, braces, a colon."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"is not valid YAML: {error}"
    mark = error.problem_mark
    line = [*text.splitlines(), ""][min(mark.line, text.count("\n"))].strip()
    remedy = ""
    if "'\\t'" in str(error):
        remedy = " Indent with spaces."
    elif any(sign in line for sign in "{[%@`*&!"):
        remedy = ' Put a text with such signs into quotes, as in "{name} ->".'
    elif line.count(": ") > 1:
        remedy = " Put a text with a colon into quotes."
    problem = " ".join(str(error.problem).split())
    return f"is not valid YAML in line {mark.line + 1}: {problem}, got {shorten(line)}.{remedy}"
