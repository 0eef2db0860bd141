"""
The command `lmrl`: lists, copies and runs the recipes that come with lmrl, and shows and uses what they trained.

    lmrl list                                  recipes and their configurations, each with a line
    lmrl copy ppo_gen .                        a recipe and its configurations, to change
    lmrl run ppo_gen --config demo_ppo         a recipe, by `accelerate launch`
    lmrl run --num_processes 2 ppo_gen ...     flags of `accelerate launch` stand before the recipe's name
    lmrl run ppo_gen --seeds 0 1 2 ...         a run for each seed, and their means; --parallel 2: two at a time
    lmrl run ppo_gen --help                    the recipe's arguments
    lmrl report runs/a                         the page of a run anew, also while it trains
    lmrl report runs/a runs/b -o both.html     a page with several runs overlaid; of folders of seeds, a test
    lmrl merge runs/rl runs/plain              a run's adapter in its base: a model that plain transformers loads
    lmrl generate runs/rl "A prompt"           completions, printed while they are generated
    lmrl chat runs/rl                          a chat in the terminal
    lmrl --version                             the version of lmrl
"""

import ast
import os
import re
import shlex
import shutil
import signal
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lmrl import __version__
from lmrl.cli import run, talk
from lmrl.cli.blocks import owners_of
from lmrl.cli.catalog import saved_help
from lmrl.cli.flags import FlagParser
from lmrl.utils import COMMAND_VARIABLE, did_you_mean

# Values that `accelerate launch` takes by default, with a warning for each.
_LAUNCH_DEFAULTS = {"num_machines": "1", "mixed_precision": "no", "dynamo_backend": "no"}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command, by default that of the process; exits with status 2 and one line if its arguments are wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    run(lambda: _call(words))


def _call(words: list[str]) -> None:
    """Calls the function of a command, or prints its help."""
    of_recipes = {"list": _list, "copy": _copy, "run": _run, "report": _report}
    commands = {**of_recipes, "merge": talk.merge, "generate": talk.generate, "chat": talk.chat}
    if not words or words[0] in ("-h", "--help"):
        print((__doc__ or "").strip())
    elif words == ["--version"]:
        print(__version__)
    elif words[0] in of_recipes and words[1:2] in (["-h"], ["--help"]):
        print("\n".join(line for line in (__doc__ or "").splitlines() if f" lmrl {words[0]} " in line))
    elif words[0] in commands:
        commands[words[0]](words[1:])
    else:
        meant = f" Did you mean `lmrl run {words[0]}`?" if _is_recipe(words[0]) else did_you_mean(words[0], commands)
        raise ValueError(f"`lmrl` must be followed by one of {', '.join(commands)}, got {words[0]!r}.{meant}")


def _list(words: list[str]) -> None:
    """Prints the recipes, and below each its configurations."""
    if words:
        raise ValueError(f"`lmrl list` must have no arguments, got {' '.join(words)}.")
    for name, path in _recipes().items():
        print(_line(name, ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""))
        for config in _configs_of(name):
            comments = re.findall(r"^#(.*)", config.read_text("utf-8"), flags=re.MULTILINE)
            print(_line(f"    {config.stem}", " ".join(comments)))


def _copy(words: list[str]) -> None:
    """Copies a recipe with its configurations, or one configuration."""
    parser = FlagParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--force", action="store_true")
    values = parser.read(words)
    if not 1 <= len(values.names) <= 2:
        raise ValueError(f"`lmrl copy` must have a name and a folder, got {' '.join(words) or 'none'}.")
    folder = Path(*values.names[1:])
    source = _find(values.names[0])
    copies = {source: folder / source.name}
    if source.suffix == ".py":
        copies |= {config: folder / "configs" / config.name for config in _configs_of(source.stem)}
    existing = [str(copy) for copy in copies.values() if copy.exists()]
    if existing and not values.force:
        raise ValueError(f"The copy would overwrite {', '.join(existing)}. Use another folder, or add --force.")
    for original, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, copy)
        print(copy)


def _run(words: list[str]) -> NoReturn:
    """Runs a recipe through `accelerate launch`, and exits with its status."""
    position = next((place for place, word in enumerate(words) if _is_recipe(word)), None)
    if position is None:
        given = next((word for word in words if not word.startswith("-")), None)
        hint = did_you_mean(given or "", _recipes()) or " `lmrl list` prints all of them."
        got = "none" if given is None else repr(given)
        raise ValueError(f"`lmrl run` must have a recipe's name or its .py file, got {got}.{hint}")
    flags = _resolve(words[:position], "--config_file", "accelerate")
    rest = _resolve(words[position + 1 :], "--config", "configs", words[position] in _recipes())
    recipe = words[position] if words[position].endswith(".py") else str(_recipes()[words[position]])
    if (text := saved_help(Path(recipe), rest)) is not None:  # as the recipe prints it, without the launcher
        sys.stdout.write(text)
        sys.exit(0)
    _check_flags(flags)
    os.environ[COMMAND_VARIABLE] = shlex.join(["lmrl", "run", *words])
    if any(word.partition("=")[0] in ("--seeds", "--parallel") for word in rest):
        sys.exit(_run_seeds(flags, recipe, rest))
    # Without --quiet a recipe's error is followed by the traceback of the launcher.
    sys.exit(_launch(["--quiet", *flags, *_launch_defaults(flags), recipe, *rest]))


def _run_seeds(flags: list[str], recipe: str, words: list[str]) -> int:
    """Runs a recipe with several seeds, and returns the exit status."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    from lmrl.seeds import run_seeds, split_flags

    seeds, parallel, rest = split_flags(words)
    # Seeds must be apart by the number of processes, which a file may set, or which may be the number of GPUs.
    arguments = launch_command_parser().parse_args([*flags, *_launch_defaults(flags), recipe])
    processes = str(_validate_launch_command(arguments)[0].num_processes)
    return run_seeds([*flags, "--num_processes", processes], [recipe, *rest], seeds, parallel)


def _launch(words: list[str]) -> int:
    """Runs `accelerate launch`, and returns its exit status; 130 after Ctrl-C, without its traceback."""
    from accelerate.commands.launch import launch_command, launch_command_parser

    interrupts = []
    signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))  # the recipe ends by itself
    status = 0
    try:
        launch_command(launch_command_parser().parse_args(words))
    except SystemExit as ended:
        status = int(ended.code or 0)
    except Exception as error:
        if "SIGINT" not in str(error) and getattr(error, "sigval", None) != signal.SIGINT:  # of torch's launcher
            raise
        interrupts.append(True)
    return 130 if interrupts else status


def _check_flags(flags: list[str]) -> None:
    """Raises an error for a flag before the recipe that `accelerate launch` lacks, which itself prints three pages."""
    from accelerate.commands.launch import launch_command_parser

    known = launch_command_parser()._option_string_actions
    for word in flags:
        flag = "--" + word.lstrip("-").partition("=")[0].replace("-", "_")
        if not word.startswith("--") or any(name.replace("-", "_").startswith(flag[2:], 2) for name in known):
            continue
        owners = owners_of(flag[2:])
        hint = f" It belongs to {owners}: write it behind the recipe." if owners else did_you_mean(flag, known)
        raise ValueError(f"Unknown argument `{word}` of `accelerate launch`.{hint}")


def _report(words: list[str]) -> None:
    """Writes the page of one run, or of several."""
    parser = FlagParser()
    parser.add_argument("folders", nargs="*")
    parser.add_argument("-o", "--output", nargs="?", action="append", default=[])
    values, unknown = parser.parse_known_intermixed_args(words)
    if not values.folders or unknown or len(values.output) > 1 or not all(values.output):
        got = shlex.join(unknown[:1] or words) or "none"
        raise ValueError(f"`lmrl report` must have folders of runs, and maybe -o with a file, got {got}.")
    from lmrl.cli.report import report_runs  # takes half a second
    from lmrl.seeds import is_seed_folder, report_seeds

    write = report_seeds if any(map(is_seed_folder, values.folders)) else report_runs
    print(write(values.folders, *values.output))


def _is_recipe(word: str) -> bool:
    return word in _recipes() or (word.endswith(".py") and Path(word).is_file())


def _launch_defaults(flags: list[str]) -> list[str]:
    """Returns missing flags of `accelerate launch` of which it would warn, unless a file configures them."""
    import torch
    from accelerate.commands.config.config_args import default_config_file

    given = {word.split("=")[0].lstrip("-").replace("-", "_") for word in flags}
    if "config_file" in given or Path(default_config_file).is_file():
        return []
    defaults = _LAUNCH_DEFAULTS if torch.accelerator.is_available() else _LAUNCH_DEFAULTS | {"num_processes": "1"}
    return [word for name, value in defaults.items() if name not in given for word in (f"--{name}", value)]


def _resolve(words: list[str], flag: str, folder: str, is_lmrls: bool = True) -> list[str]:
    """
    Returns words in which the name of a shipped file after a flag is replaced by the file's path. In a script that is
    not lmrl's the flag may mean something else, so unknown names stay.
    """
    shipped = _shipped(f"{folder}/*.yaml")
    resolved = []
    for before, word in zip(["", *words], words, strict=False):
        head = f"{flag}=" if word.startswith(f"{flag}=") else ""
        given = word.removeprefix(head)
        name = given.removesuffix(".yaml")
        is_name = (head or before == flag) and not Path(given).exists()
        if is_name and is_lmrls and name not in shipped:
            hint = did_you_mean(name, shipped) or " `lmrl list` prints the configurations of the recipes."
            raise ValueError(f"`{flag}` must be a file or the name of one that comes with lmrl, got {given!r}.{hint}")
        resolved.append(f"{head}{shipped.get(name, given)}" if is_name else word)
    return resolved


def _find(name: str) -> Path:
    """Returns the file of a recipe or of a configuration."""
    known = _recipes() | _shipped("configs/*.yaml")
    if name not in known:
        raise ValueError(f"Unknown recipe `{name}`.{did_you_mean(name, known) or ' `lmrl list` prints all of them.'}")
    return known[name]


def _recipes() -> dict[str, Path]:
    return _shipped("*.py")


def _shipped(pattern: str) -> dict[str, Path]:
    """Returns files that come with lmrl by their names: inside an installed lmrl, beside the lmrl of a checkout."""
    installed = Path(__file__).parent / "_recipes"
    folder = installed if installed.is_dir() else Path(__file__).parents[1] / "recipes"
    return {path.stem: path for path in sorted(folder.glob(pattern))}


def _configs_of(recipe: str) -> list[Path]:
    """Returns the configurations that name a recipe in the command of their header, and those the recipe names."""
    own = set(re.findall(r"([\w-]+)\.yaml", _recipes()[recipe].read_text("utf-8")))
    configs = _shipped("configs/*.yaml")
    return [path for name, path in configs.items() if name in own or f"recipes/{recipe}.py" in path.read_text("utf-8")]


def _line(head: str, text: str) -> str:
    """Returns a name with the first sentence of its description, in lines of at most 119 characters."""
    sentence = " ".join(text.split()).split(". ")[0].rstrip(".")
    return textwrap.fill(f"{head:<26}{sentence}", 119, subsequent_indent=" " * 26)


if __name__ == "__main__":
    main()
