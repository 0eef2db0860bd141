"""What README.md, the pages of docs/ and the examples show runs, parses and exists."""

import ast
import functools
import itertools
import os
import re
import runpy
import shlex
import sys
import types
import warnings
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import notebooks
import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from test_layers import LAYERS
from test_words import EXCEPT, FORBIDDEN
from torch.distributed.run import get_args_parser as torchrun_parser
from training import make_trainer

from lmrl.cli import parse, talk
from lmrl.evaluation import metrics
from lmrl.rewards import make_rewards
from lmrl.seeds import split_flags
from lmrl.trainers import PolicyGradientConfig, PPOConfig, ReinforceConfig

ROOT = Path(__file__).resolve().parents[1]
FOUND = sorted(
    path.relative_to(ROOT).as_posix()
    for place in ("docs/*.md", "docs/*.ipynb", "examples/*/*.md")
    for path in ROOT.glob(place)
)
PAGES = ["README.md", "CONTRIBUTING.md", *FOUND]
SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("examples/*/run.sh"))
TRAINERS = (ROOT / "docs/trainers.md").read_text(encoding="utf-8")

CHECKED_BY_HAND = {"cd", "mkdocs", "pip", "rm", "set", "shuf"}  # commands of other programs
LINE = re.compile(r"^\| `([^`]+)` \| ([^|]*?) ?\| [^|]+ \| [^|]*\| [^|]*\|$", flags=re.MULTILINE)
METRICS = {name: when for name, when in LINE.findall(TRAINERS.split("## Logged metrics")[1])}


def text_of(page: str) -> str:
    """Returns the text of a page; of a notebook its Markdown, as its code has a test of its own."""
    if page.endswith(".ipynb"):
        cells = notebooks.read(ROOT / page)["cells"]
        return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """Returns the fenced blocks of a page that are in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), flags=re.DOTALL | re.MULTILINE)


def commands() -> Iterator[tuple[str, str]]:
    """Yields the page or the script of an example, and the text, of every command line."""
    found = [(page, block) for page in PAGES for block in blocks(page, "bash")]
    for page, block in [*found, *((script, filled_in(text_of(script))) for script in SCRIPTS)]:
        for line in block.replace("\\\n", " ").splitlines():
            yield page, line


def filled_in(script: str) -> str:
    """Returns a script with the defaults of its variables in the places of these."""
    for name, default in re.findall(r"^(\w+)=\$\{\1:-(.*)\}$", script, flags=re.MULTILINE):
        script = script.replace(f"${name}", default)
    return script


# -- Python ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks(page, "python")])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    monkeypatch.setattr(metrics, "METRICS", dict(metrics.METRICS))  # a page adds one
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), vars(module))  # the project's own pages


# -- commands --------------------------------------------------------------------------------------------------------


def words_of(line: str) -> tuple[dict[str, str], list[str]]:
    """Returns the environment and the words of a command line."""
    words = shlex.split(line, comments=True)
    count = next((place for place, word in enumerate(words) if not re.fullmatch(r"[A-Z_]+=\S*", word)), len(words))
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


TERMINAL_COMMANDS = {"merge": talk.merge_flags, "generate": talk.generate_flags, "chat": talk.chat_flags}


def script_of(words: list[str]) -> list[str]:
    """Returns the script that a command runs and the script's arguments, parsed as the launcher does."""
    match words:
        case ["accelerate", "launch", *rest]:
            launched = launch_command_parser().parse_args(rest)
            if launched.config_file is not None:
                assert (ROOT / launched.config_file).is_file(), launched.config_file
            return [launched.training_script, *launched.training_script_args]
        case ["torchrun", *rest]:
            launched = torchrun_parser().parse_args(rest)
            return [launched.training_script, *launched.training_script_args]
        case ["lmrl", "run", *rest]:
            return [f"recipes/{rest[0]}.py", *(split_flags(rest[1:])[2] if "--seeds" in rest else rest[1:])]
        case ["python", *rest]:
            return rest
    return words


@functools.cache
def classes_of(recipe: Path) -> tuple[tuple[type, ...], Path | None]:
    """Returns the dataclasses that a recipe parses its arguments into, and the YAML file of its demo."""
    namespace = runpy.run_path(str(recipe))
    source = recipe.read_text(encoding="utf-8")
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    call = next(node for node in calls if ast.unparse(node.func) == "parse")
    demo = re.search(r'"(demo_\w+\.yaml)"', source)
    classes = eval(f"({', '.join(map(ast.unparse, call.args))},)", namespace)
    has_demo = any(word.arg == "demo" for word in call.keywords)
    return classes, None if demo is None or not has_demo else ROOT / "recipes/configs" / demo[1]


def check_recipe(recipe: Path, arguments: list[str]) -> None:
    """Parses the arguments as the recipe does."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    classes, demo = classes_of(recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [str(recipe)])  # whose block of a file is read
        parsed = parse(*classes, argv=arguments[:end], demo=demo)
    if end < len(arguments):
        check_recipe(ROOT / "recipes" / f"{parsed[0].recipe}.py", arguments[end + 1 :])


def check_flags(script: Path, arguments: list[str]) -> None:
    """Checks that a benchmark knows each flag, and its recipe, reinforce_gen by default, what stands behind `--`."""
    source = script.read_text(encoding="utf-8")
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if end < len(arguments):
        given = dict(itertools.pairwise(arguments[:end]))
        recipe = ROOT / "recipes" / f"{given.get('--recipe', 'reinforce_gen')}.py"
        check_recipe(recipe, ["--config", given["--config"], *arguments[end + 1 :]])
    for flag in (word for word in arguments[:end] if word.startswith("--")):
        name = flag.removeprefix("--").replace("-", "_")
        assert f'"{flag}"' in source or f'"{name}": (' in source, f"{script} has no {flag}"


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_is_one_that_its_program_takes(
    page: str, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    _, words = words_of(line)
    if not words or words[0] in CHECKED_BY_HAND:
        return
    if words[0] == "lmrl" and words[1] in ("list", "copy", "report"):
        assert words[1] != "copy" or (ROOT / "recipes" / f"{words[2]}.py").is_file()
        return
    if words[0] == "lmrl" and words[1] in TERMINAL_COMMANDS:
        assert TERMINAL_COMMANDS[words[1]]().read(words[2:])
        return
    if words[:2] == ["lmrl", "report"]:
        assert {word for word in words if word.startswith("-")} <= {"-o", "--output"}
        return
    script, *arguments = script_of(words)
    assert (ROOT / script).is_file(), f"{page}: {script}"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*will be removed in lmrl.*")
        if script.startswith("recipes/"):
            check_recipe(ROOT / script, arguments)
        elif script.startswith("benchmarks/"):
            check_flags(ROOT / script, arguments)
        else:
            assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize("page", PAGES)
def test_an_argument_in_the_text_of_a_page_is_one_of_a_recipe(page: str) -> None:
    sources = [*(ROOT / "recipes").glob("*.py"), *(ROOT / "lmrl").rglob("*.py")]
    known = {name for kind in every_class() for name in (field.name for field in fields(kind))}
    known |= {"no-index", "help", "config", "strict", "quiet"}
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*sources, *(ROOT / "benchmarks").glob("*.py")])
    for span in re.findall(r"`([^`\n]*--[^`\n]*)`", text_of(page)):
        for flag in re.findall(r"(?<![\w-])--([a-zA-Z]\w*)", span):
            assert flag in known or f'"--{flag}"' in text, f"{page}: no recipe takes --{flag}"


def every_class() -> list[type]:
    """Returns the dataclasses of all recipes."""
    return [kind for recipe in sorted((ROOT / "recipes").glob("*.py")) for kind in classes_of(recipe)[0]]


def test_the_yaml_of_the_rewards_page_makes_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_rewards.py").write_text("def politeness(completions, **_):\n    return [1.0] * len(completions)\n")
    (block,) = blocks("docs/rewards.md", "yaml")
    config = yaml.safe_load(block)
    assert len(make_rewards(config["rewards"])) == len(config["reward_weights"]) == 4


# -- metrics and arguments -------------------------------------------------------------------------------------------


def logged(algorithm: str, folder: Path, model: str, **overrides: Any) -> set[str]:
    """Returns the names of all that a run logs, the last line left out, rewards under a common name."""
    trainer = make_trainer(algorithm, model, folder, **overrides)
    trainer.train()
    names = {name for entry in trainer.state.log_history[:-1] for name in entry}
    return {re.sub(r"^rewards/\w+/", "rewards/<name>/", name) for name in names}


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
def test_every_logged_metric_has_its_line(algorithm: str, gpt2_path: str, tmp_path: Path) -> None:
    assert sorted(logged(algorithm, tmp_path, gpt2_path) - set(METRICS)) == []


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce"])
def test_every_line_is_of_a_metric_that_is_logged_when_it_names_no_other_condition(
    algorithm: str, gpt2_path: str, tmp_path: Path
) -> None:
    with_beta = logged(algorithm, tmp_path / "with", gpt2_path)
    without_beta = logged(algorithm, tmp_path / "without", gpt2_path, beta=0.0)
    for name, when in METRICS.items():
        if when in ("", "PPO", "`beta` above 0"):
            assert (name in with_beta) == (when != "PPO" or algorithm == "ppo"), name
            assert (name in without_beta) == (name in with_beta and when != "`beta` above 0"), name


def test_the_last_line_and_the_evaluation_have_their_lines(gpt2_path: str, tmp_path: Path) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, held_out_metrics=lambda _: {"bleu": 1.0})
    trainer.eval_dataset = trainer.train_dataset
    trainer.train()
    last = trainer.state.log_history[-1]
    assert set(last) - {"epoch", "step"} == {name for name, when in METRICS.items() if when == "last line"}
    evaluated = trainer.evaluate()
    assert evaluated["eval_bleu"] == 1.0
    conditional = {name for name, when in METRICS.items() if when == "`eval_strategy`"}
    assert set(evaluated) - {"eval_bleu", "epoch"} == conditional - {"eval_<name>"}


def own_defaults(config: type, base: type) -> dict[str, Any]:
    """Returns the defaults of the fields that a config adds to its base, or whose default it changes."""
    values = {field.name: default_of(field) for field in fields(config)}
    before = {field.name: default_of(field) for field in fields(base)}
    return {name: value for name, value in values.items() if name not in before or before[name] != value}


def default_of(field: Any) -> Any:
    """Returns the default of a field."""
    return field.default_factory() if field.default is MISSING else field.default


@pytest.mark.parametrize("config", [PolicyGradientConfig, ReinforceConfig, PPOConfig])
def test_every_argument_that_lmrl_adds_has_its_row_with_its_default(config: type) -> None:
    rows = re.findall(r"^\| (`[^|]+`) \| (`[^|]+) \| [^|]+\|$", TRAINERS.split("## Logged metrics")[0], re.MULTILINE)
    shown = {name: default for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    for name, value in own_defaults(config, config.__mro__[1]).items():
        assert name in shown, f"{name} of {config.__name__} has no row"
        if name not in ("num_generations", "num_iterations"):  # which the two trainers have of their own
            assert f"`{value}`" in shown[name], (name, value, shown[name])


# -- what pages name -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    found = re.findall(
        r"(?<![\w/.:-])(?:\./)?((?:scripts|recipes|examples|benchmarks|tests|lmrl|\.ci)/[\w./-]*[\w/])", text_of(page)
    )
    assert [name for name in sorted(set(found)) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page: str) -> None:
    targets = re.findall(r"(?:\]\(|src(?:set)?=\")([^)\"#\s]+)", text_of(page))
    local = [target for target in targets if not target.startswith(("http://", "https://"))]
    assert [name for name in local if not (ROOT / page).parent.joinpath(name).exists()] == []


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_pages_use_the_words_of_the_field(page: str) -> None:
    prose = EXCEPT.sub("", re.sub(r"```.*?```|`[^`\n]*`", "", text_of(page), flags=re.DOTALL))
    assert re.findall(rf"\b(?:{'|'.join(FORBIDDEN)})\b", prose, flags=re.IGNORECASE) == []


def test_the_table_of_imports_is_the_one_that_test_layers_holds() -> None:
    rows = re.findall(r"^\| `(lmrl/[\w./]+)` \| (.*?) ?\| .+ \|$", text_of("docs/architecture.md"), flags=re.MULTILINE)
    shown = {room: {f"lmrl.{name}" for name in re.findall(r"`([\w.]+)`", names)} for room, names in rows}
    assert len(shown) == 16
    for room, names in shown.items():
        assert names == set(LAYERS[room].lmrl) - {room.replace("/", ".")}, room


def constants() -> str:
    """Returns the texts in the code of lmrl, one a line."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "lmrl").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    code = constants()
    messages = re.findall(r'\*\*Symptom\.\*\* "(.*?)"$', text_of("docs/troubleshooting.md"), flags=re.MULTILINE)
    assert len(messages) >= 10
    for message in messages:
        pieces = re.split(r"['`]|\S*\d\S*|\.\.\.|\S*/\S*|\bnan\b|\[|\]|train_dataset|: ", message)
        assert any(len(piece.strip()) >= 10 and piece.strip() in code for piece in pieces), message
