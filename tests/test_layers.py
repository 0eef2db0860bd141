"""The structure of the tree: who may import whom, no circles, and how large rooms, files and functions may be.

What the tree does not meet yet stands in the numbers called `*_TODAY`: each is to go down to its budget.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Layer:
    """What a layer may import of lmrl and of other libraries (None: of any), and what it must never import."""

    lmrl: tuple[str, ...]
    others: tuple[str, ...] | None
    never: tuple[str, ...] = ()


# The standard library is open to every layer, but for what `never` names; so are lmrl.utils, lmrl.settings,
# lmrl.libraries (which imports one when it is used) and lmrl.deprecation.
# safetensors, which transformers requires, is how a critic and a rollout are saved.
OPEN_TO_ALL = ("lmrl.utils", "lmrl.libraries", "lmrl.progress", "lmrl.deprecation", "lmrl.settings")
TRAINER_LIBRARIES = ("accelerate", "datasets", "peft", "safetensors", "torch", "transformers", "trl")
TRAINERS = ("PPOConfig", "PPOTrainer", "ReinforceConfig", "ReinforceTrainer")
TOP = ("lmrl.arguments", "lmrl.cli", "lmrl.data", "lmrl.experiment", "lmrl.rewards", "lmrl.trainers")
SUPERVISED = ("lmrl.evaluation", "lmrl.models", "lmrl.search", "lmrl.supervised")
TOP_NAMES = tuple(f"lmrl.{name}" for name in (*TRAINERS, "__version__"))
LAYERS = {
    "lmrl/version.py": Layer((), ()),
    "lmrl/utils.py": Layer((), ()),
    "lmrl/settings.py": Layer((), ()),
    "lmrl/libraries.py": Layer((), None),
    "lmrl/deprecation.py": Layer(("lmrl.version",), ()),
    "lmrl/saving.py": Layer((), ("safetensors",)),
    "lmrl/outputs.py": Layer((), ()),
    "lmrl/rollouts.py": Layer((), ()),
    "lmrl/log_file.py": Layer(("lmrl.rollouts",), ("transformers",)),
    "lmrl/progress_bar.py": Layer(("lmrl.display",), ("transformers",)),
    "lmrl/frozen.py": Layer(("lmrl.models",), ("accelerate", "transformers")),
    "lmrl/checkpoints.py": Layer(("lmrl.outputs", "lmrl.saving"), ("accelerate", "safetensors", "transformers")),
    "lmrl/sigterm.py": Layer(("lmrl.checkpoints",), ("accelerate", "torch", "transformers")),
    "lmrl/distributed.py": Layer((), ("torch",)),
    "lmrl/progress": Layer(("lmrl.progress",), ()),
    "lmrl/precision.py": Layer((), ("torch",)),
    "lmrl/steps.py": Layer((), ("torch",)),
    "lmrl/captured.py": Layer(("lmrl.steps",), ("peft", "torch", "transformers")),
    "lmrl/drawn.py": Layer((), ("torch",)),
    "lmrl/fused_lora.py": Layer((), ("peft", "torch", "transformers")),
    "lmrl/packing.py": Layer((), ("torch", "transformers")),
    "lmrl/core": Layer(
        ("lmrl.core",), ("torch",), ("transformers", "trl", "accelerate", "torch.distributed", "logging")
    ),
    "lmrl/data": Layer(("lmrl.data",), None),
    "lmrl/models": Layer(
        ("lmrl.models", "lmrl.captured", "lmrl.drawn", "lmrl.packing", "lmrl.precision", "lmrl.steps"),
        ("peft", "safetensors", "torch", "transformers", "trl"),
    ),
    "lmrl/critics": Layer(
        ("lmrl.critics", "lmrl.core", "lmrl.distributed", "lmrl.models"),
        ("accelerate", "safetensors", "torch", "transformers"),
    ),
    "lmrl/display": Layer(("lmrl.display",), ("jinja2", "numpy")),
    "lmrl/rewards": Layer(
        ("lmrl.rewards", "lmrl.display", "lmrl.distributed"), None, ("trl", "accelerate", "datasets")
    ),
    "lmrl/envs": Layer(("lmrl.envs", "lmrl.rewards"), ("gymnasium", "numpy")),
    "lmrl/checks": Layer(
        ("lmrl.checks", "lmrl.checkpoints", "lmrl.core", "lmrl.distributed", "lmrl.models"),
        ("accelerate", "datasets", "torch", "transformers", "trl"),
    ),
    "lmrl/trainers": Layer(
        (
            *("lmrl.trainers", "lmrl.checks", "lmrl.core", "lmrl.critics", "lmrl.models", "lmrl.distributed"),
            *("lmrl.checkpoints", "lmrl.drawn", "lmrl.fused_lora", "lmrl.log_file", "lmrl.saving", "lmrl.sigterm"),
            *("lmrl.precision", "lmrl.display", "lmrl.frozen", "lmrl.progress_bar"),
        ),
        TRAINER_LIBRARIES,
    ),
    "lmrl/evaluation": Layer(
        (
            *("lmrl.evaluation", "lmrl.rewards", "lmrl.models", "lmrl.distributed", "lmrl.rollouts"),
            *("lmrl.display", "lmrl.version"),
        ),
        None,
        ("trl",),
    ),
    "lmrl/comparison": Layer(
        ("lmrl.comparison", "lmrl.display", "lmrl.evaluation", "lmrl.rewards", "lmrl.rollouts"), None, ("trl",)
    ),
    "lmrl/search": Layer(
        ("lmrl.search", "lmrl.evaluation", "lmrl.cli", "lmrl.outputs"), None, ("torch", "transformers", "trl")
    ),
    "lmrl/seeds": Layer(
        (
            *("lmrl.seeds", "lmrl.cli", "lmrl.comparison", "lmrl.display", "lmrl.evaluation", "lmrl.outputs"),
            "lmrl.rollouts",
        ),
        ("numpy",),
        ("torch", "transformers", "trl"),
    ),
    "lmrl/experiment": Layer(
        (
            *("lmrl.experiment", "lmrl.critics", "lmrl.models", "lmrl.data", "lmrl.rewards", "lmrl.evaluation"),
            *("lmrl.distributed", "lmrl.precision", "lmrl.outputs", "lmrl.rollouts", "lmrl.version", "lmrl.log_file"),
            *("lmrl.comparison", "lmrl.display", "lmrl.checkpoints"),
        ),
        None,
        ("trl",),
    ),
    "lmrl/supervised": Layer(
        (
            *("lmrl.supervised", "lmrl.experiment", "lmrl.data", "lmrl.models", "lmrl.rewards", "lmrl.evaluation"),
            *("lmrl.precision", "lmrl.arguments", "lmrl.distributed", "lmrl.trainers", "lmrl.comparison"),
            "lmrl.display",
        ),
        None,
        ("trl",),
    ),
    "lmrl/arguments": Layer(("lmrl.arguments",), ("trl",)),
    "lmrl/cli": Layer(
        (
            *("lmrl.cli", "lmrl.arguments", "lmrl.evaluation", "lmrl.experiment", "lmrl.models", "lmrl.outputs"),
            "lmrl.rollouts",
        ),
        ("transformers", "trl", "yaml"),
    ),
    "lmrl/__main__.py": Layer(("lmrl.__version__", "lmrl.cli", "lmrl.seeds"), ("accelerate", "torch")),
    "lmrl/__init__.py": Layer(("lmrl.trainers", "lmrl.version"), ()),
    "recipes": Layer((*TOP, *TOP_NAMES, *SUPERVISED), None),
    "recipes/ppo_gen.py": Layer((*TOP, *TOP_NAMES), ("transformers", "trl")),
    "recipes/reinforce_gen.py": Layer((*TOP, *TOP_NAMES), ("transformers", "trl")),
}

# Lines of a room's Python files, docstrings included, and of the library.
BUDGETS = {
    "lmrl": 15_500,
    "lmrl/checks": 600,
    "lmrl/comparison": 600,
    "lmrl/core": 800,
    "lmrl/critics": 700,
    "lmrl/data": 1_350,
    "lmrl/envs": 250,
    "lmrl/display": 900,
    "lmrl/evaluation": 3_900,
    "lmrl/evaluation/reporting": 1_500,
    "lmrl/models": 1_600,
    "lmrl/rewards": 4_400,
    "lmrl/search": 500,
    "lmrl/seeds": 900,
    "lmrl/trainers": 2_700,
}
# What main does not meet yet.
BUDGETS_TODAY = {
    "lmrl": 28_550,
    "lmrl/rewards": 4_590,
    "lmrl/trainers": 2_900,
}
FILE_LINES_TODAY: dict[str, int] = {}


def sources(*places: str) -> list[Path]:
    """Returns the Python files of folders or files."""
    found = [ROOT / place for place in places]
    return sorted(path for place in found for path in ([place] if place.is_file() else place.rglob("*.py")))


def lines_of(path: Path) -> int:
    """Returns the number of lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def parsed(*places: str) -> Iterator[tuple[str, ast.Module]]:
    """Yields the name and the syntax tree of every file; skips the test if there is none."""
    paths = sources(*places)
    if not paths:
        pytest.skip(f"{' and '.join(places)} not written yet")
    for path in paths:
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imported(name: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields the line and the full dotted name of every import, also inside functions and as text."""
    package = name.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from ((node.lineno, str(arg.value)) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def within(module: str, places: tuple[str, ...]) -> bool:
    """Returns whether a module is one of the places or inside one."""
    return any(module == place or module.startswith(place + ".") for place in places)


def why_not(module: str, layer: Layer) -> str | None:
    """Returns why a layer may not import a module, or None if it may."""
    top = module.split(".")[0]
    if within(module, layer.never):
        return "which it must never"
    if top == "lmrl":
        if within(module, (*layer.lmrl, *OPEN_TO_ALL)):
            return None
        return f"of lmrl it may import {', '.join(layer.lmrl) or 'nothing'}"
    if layer.others is None or top in sys.stdlib_module_names or top in layer.others:
        return None
    return f"of other libraries it may import {', '.join(layer.others) or 'none'}"


def import_graph() -> dict[str, set[str]]:
    """Returns the modules of lmrl that each module of lmrl imports, anywhere in its text."""
    trees = dict(parsed("lmrl"))
    files = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name for name in trees}
    graph = {}
    for module, name in files.items():
        wanted = [target for _, target in imported(name, trees[name])]
        # `from lmrl.models import load_model` names an attribute of a module, or a module.
        targets = {target if target in files else target.rpartition(".")[0] for target in wanted}
        graph[module] = {target for target in targets if target in files}
    return graph


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Returns the modules that a module imports, directly or through others."""
    found: set[str] = set()
    pending = list(graph[start])
    while pending:
        module = pending.pop()
        if module not in found:
            found.add(module)
            pending.extend(graph[module])
    return found


def outside_functions(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yields the statements that run on import, but for those under `if TYPE_CHECKING`."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from outside_functions(node.orelse)
            continue
        yield node
        for field in ("body", "orelse", "finalbody", "handlers"):
            yield from outside_functions(getattr(node, field, []))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yields every function and method."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Returns the lines of a function without its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def packs_unlike_things(node: ast.AST) -> bool:
    """Returns whether a statement is `a, b = x, y` where x and y differ by more than names and constants."""
    if not isinstance(node, ast.Assign):
        return False
    target, value = node.targets[0], node.value
    if not isinstance(target, ast.Tuple) or not isinstance(value, ast.Tuple):
        return False
    if {ast.unparse(part) for part in target.elts} == {ast.unparse(part) for part in value.elts}:
        return False  # two values change places
    return len({skeleton(part) for part in value.elts}) > 1


def skeleton(node: ast.expr) -> str:
    """Returns the text of an expression with every name and constant replaced by a placeholder."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|[\w.]+", "x", ast.unparse(node))
    return re.sub(r"\[[^\[\]]*\]", "", text)


def refuse(wrong: list[str]) -> None:
    """Fails with one sentence for each thing that is wrong."""
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def refuse_private_names(*places: str) -> None:
    """Fails if a file uses a name of a library that begins with an underscore."""
    wrong = []
    for name, tree in parsed(*places):
        for line, module in imported(name, tree):
            private = [part for part in module.split(".") if part.startswith("_") and not part.endswith("__")]
            wrong += [f"{name}:{line} imports the private {module}"] * bool(private and module.startswith("lmrl"))
    refuse(wrong)


@pytest.mark.parametrize("place", LAYERS)
def test_a_layer_imports_only_what_it_may(place: str) -> None:
    """The table of the architecture, in full."""
    layer = LAYERS[place]
    refuse(
        [
            f"{name}:{line} imports {module}: {reason}"
            for name, tree in parsed(place)
            for line, module in imported(name, tree)
            if (reason := why_not(module, layer))
        ]
    )


def test_every_module_of_lmrl_is_in_a_layer() -> None:
    """A new folder is put into the table before anything else."""
    stray = [name for name, _ in parsed("lmrl") if not any(name == p or name.startswith(p + "/") for p in LAYERS)]
    refuse([f"{name} is in no layer of tests/test_layers.py" for name in stray])


def test_no_module_imports_itself_through_others() -> None:
    """Imports inside functions and under `if TYPE_CHECKING` count as well."""
    graph = import_graph()
    refuse([f"{module} is in a circle of imports" for module in graph if module in reachable(graph, module)])


def test_models_take_one_class_of_trl() -> None:
    """The output class that carries log-probabilities; all else of TRL belongs to the trainers."""
    taken = {
        module
        for name, tree in parsed("lmrl/models")
        for _, module in imported(name, tree)
        if within(module, ("trl",))
    }
    refuse([f"lmrl/models imports {sorted(taken)}: one class of trl at most"] if len(taken) > 1 else [])


def test_rewards_load_a_library_only_where_it_is_used() -> None:
    """What runs on `import lmrl.rewards` is the standard library."""
    layer = Layer(("lmrl.rewards", "lmrl.display", "lmrl.distributed"), ())
    refuse(
        [
            f"{name}:{line} imports {module} on import: put it into the class that needs it"
            for name, tree in parsed("lmrl/rewards")
            for statement in outside_functions(tree.body)
            if isinstance(statement, ast.Import | ast.ImportFrom)
            for line, module in imported(name, statement)
            if why_not(module, layer)
        ]
    )


def test_rewards_are_imported_without_torch() -> None:
    """Measured, as an import of an import would be missed by reading."""
    code = "import sys, lmrl, lmrl.rewards; print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_only_the_base_trainer_overrides_names_of_trl_and_transformers() -> None:
    """What a subclass writes is its own: `credit`, `loss` and the facts of its algorithm."""
    from transformers import Trainer
    from trl import RLOOTrainer

    from lmrl import trainers

    # Plain data that TRL writes into a model card is as much a fact of an algorithm as `name` and `citation`.
    facts = {"_name", "_paper", "_tag_names"}
    inherited = {name for name in {*dir(RLOOTrainer), *dir(Trainer)} - facts if not name.startswith("__")}
    lines = {trainer for name in trainers.__all__ for trainer in getattr(getattr(trainers, name), "__mro__", ())}
    own = {trainer for trainer in lines if trainer.__module__.startswith("lmrl.")}
    refuse(
        sorted(
            f"{trainer.__module__}.{trainer.__name__} overrides {name}"
            for trainer in own
            if issubclass(trainer, Trainer) and trainer.__module__ != "lmrl.trainers.base"
            for name in vars(trainer).keys() & inherited
        )
    )


def test_recipes_and_benchmarks_use_public_names_only() -> None:
    """A recipe is what a user would write."""
    refuse_private_names("recipes", "benchmarks")
    refuse(
        [
            f"{name}:{node.lineno} uses the private {ast.unparse(node)}"
            for name, tree in parsed("recipes")
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__")
        ]
    )


def test_recipes_do_not_import_each_other() -> None:
    """Each reads as a page of prose, on its own."""
    others = ("recipes", *(path.stem for path in sources("recipes")))
    refuse(
        [
            f"{name}:{line} imports {module}, a recipe"
            for name, tree in parsed("recipes")
            for line, module in imported(name, tree)
            if within(module, others)
        ]
    )


def test_nothing_in_the_library_imports_recipes() -> None:
    """Recipes are not a package."""
    refuse(
        [
            f"{name}:{line} imports {module}"
            for name, tree in parsed("lmrl")
            for line, module in imported(name, tree)
            if within(module, ("recipes",))
        ]
    )


@pytest.mark.parametrize("room", BUDGETS)
def test_a_room_keeps_within_its_budget_of_lines(room: str) -> None:
    """A room that grows past it gives something up; lines are saved by deleting, not by packing."""
    lines = sum(lines_of(path) for path in sources(room))
    limit = max(BUDGETS[room], BUDGETS_TODAY.get(room, 0))
    assert lines <= limit, f"{room} has {lines} lines, at most {limit}"


def test_files_have_at_most_400_lines() -> None:
    """A longer one is two."""
    wrong = []
    for path in sources("lmrl", "recipes", "scripts", "benchmarks"):
        name = path.relative_to(ROOT).as_posix()
        limit = FILE_LINES_TODAY.get(name, 400)
        if lines_of(path) > limit:
            wrong.append(f"{name} has {lines_of(path)} lines, at most {limit}")
    refuse(wrong)


def test_recipes_have_at_most_60_lines_and_the_two_main_ones_50() -> None:
    """Imports, arguments, model, data, rewards, trainer, train, report, and nothing else."""
    limits = {"ppo_gen": 50, "reinforce_gen": 50}
    wrong = []
    for path in sources("recipes"):
        limit = limits.get(path.stem, 60)
        if lines_of(path) > limit:
            wrong.append(f"recipes/{path.name} has {lines_of(path)} lines, at most {limit}")
    refuse(wrong)


def test_function_bodies_have_at_most_60_lines_and_25_in_core() -> None:
    """Counted without signature and docstring."""
    wrong = []
    for name, tree in parsed("lmrl", "recipes", "scripts", "benchmarks"):
        most = 25 if name.startswith("lmrl/core/") else 60
        for function in functions(tree):
            if (lines := body_lines(function)) > most:
                wrong.append(f"{name}:{function.lineno} {function.name} has {lines} lines, at most {most}")
    refuse(wrong)


def test_assignments_seldom_pack_unlike_things_into_one_line() -> None:
    """`a, b = f(x), y` is two lines; of 1,000 lines one may be such."""
    places = ("lmrl", "recipes", "scripts", "benchmarks")
    packed = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, tree in parsed(*places)
        for node in ast.walk(tree)
        if packs_unlike_things(node)
    ]
    limit = sum(map(lines_of, sources(*places))) // 1000
    refuse([f"{len(packed)} assignments, at most {limit}:", *packed] if len(packed) > limit else [])


def test_public_functions_and_classes_have_docstrings() -> None:
    """Methods included; those that begin with an underscore are left to taste."""
    refuse(
        [
            f"{name}:{node.lineno} {node.name} has no docstring"
            for name, tree in parsed("lmrl")
            for node in [*functions(tree), *(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef))]
            if not node.name.startswith("_") and not ast.get_docstring(node)
        ]
    )


def test_the_tree_names_no_machine_and_no_package_host() -> None:
    """It is installed with pip's ordinary configuration, anywhere."""
    machine = re.compile(r"/(?:work|farm|root|opt/w|home|Users)/")
    host = re.compile(r"py[p]i\.org|python[h]osted|wh[l]/cpu|--(?:extra-)?index-url|--find-link[s]")
    texts = {".py", ".md", ".ipynb", ".toml", ".txt", ".yaml", ".yml", ".json", ".cfg", ".cff", ""}
    names = ("lmrl", "recipes", "scripts", "benchmarks", "tests", ".ci", ".github", "docs")
    paths = [path for name in names for path in (ROOT / name).rglob("*")]
    paths += [path for path in ROOT.iterdir() if path.name != ".git"]  # a file in a worktree
    wrong = []
    for path in paths:
        if path.is_file() and path.suffix in texts and path.stat().st_size < 1_000_000:
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
                if found := machine.search(line) or host.search(line):
                    wrong.append(f"{path.relative_to(ROOT)}:{number} names {found.group()}")
    refuse(wrong)


def test_only_the_command_line_destroys_process_groups() -> None:
    """It waits for gloo's threads first: one that still frees a tensor when Python exits aborts the process."""
    ends = "destroy_" + "process_group"
    paths = sources("lmrl", "recipes", "tests", "scripts", "benchmarks")
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}
    assert [name for name, text in texts.items() if ends in text] == ["lmrl/cli/errors.py"]
    begun = [text for text in texts.values() if "distributed.init_" + "process_group" in text]
    assert len(begun) >= 3 and all(re.search(r"^from lmrl\.cli import .*\brun$", text, re.MULTILINE) for text in begun)


def test_no_test_or_script_looks_for_data_outside_of_the_project() -> None:
    """Real data and models are found by `LMRL_DATA` alone, which has no default."""
    outside = re.compile(r"(?:\.\./|parents?\[?\d?\]?\s*/\s*\"\.\.|/\s*\"shared\")")
    wrong = []
    for path in sources("tests", "scripts", "benchmarks", "recipes"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if path != Path(__file__) and outside.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number} leaves the project: {line.strip()}")
    refuse(wrong)
