"""Who may import whom, and how big a file and a function may be. Layers that are not there yet are skipped."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAINERS = ("PPOConfig", "PPOTrainer", "ReinforceConfig", "ReinforceTrainer")


@dataclass(frozen=True)
class Layer:
    """What a layer may import of lmrl and of other libraries (None: of any), and what it must never import."""

    lmrl: tuple[str, ...]
    others: tuple[str, ...] | None
    never: tuple[str, ...] = ()


# The standard library is open to every layer, but for what `never` names. safetensors, which transformers requires,
# is how a critic and a rollout are saved.
TRAINER_LIBRARIES = ("accelerate", "datasets", "peft", "safetensors", "torch", "transformers", "trl")
SHARED = ("lmrl.utils", "lmrl.distributed", "lmrl.deprecation")  # open to every room but core
LAYERS = {
    "lmrl/utils.py": Layer((), ()),
    "lmrl/deprecation.py": Layer(("lmrl.__version__",), ()),
    "lmrl/distributed.py": Layer((), ("torch",)),
    "lmrl/core": Layer(
        ("lmrl.core",), ("torch",), ("transformers", "trl", "accelerate", "torch.distributed", "logging")
    ),
    "lmrl/rewards": Layer(("lmrl.rewards",), None, ("trl", "accelerate", "datasets")),
    "lmrl/models": Layer(("lmrl.models",), ("peft", "safetensors", "torch", "transformers", "trl")),
    "lmrl/data": Layer(("lmrl.data",), None),
    "lmrl/trainers": Layer(("lmrl.trainers", "lmrl.core", "lmrl.models"), TRAINER_LIBRARIES),
    "lmrl/evaluation": Layer(("lmrl.evaluation", "lmrl.rewards", "lmrl.models.loading"), None, ("trl",)),
    "lmrl/search": Layer(("lmrl.search", "lmrl.evaluation"), ("optuna", "rich", "yaml")),
    "lmrl/envs": Layer(("lmrl.envs", "lmrl.rewards"), ("gymnasium", "numpy")),
    "lmrl/arguments.py": Layer((), ("trl",)),
    "lmrl/cli.py": Layer((), ("trl", "yaml")),
    "lmrl/__init__.py": Layer(("lmrl.trainers",), ()),
    "recipes": Layer(
        (
            *(
                "lmrl.arguments",
                "lmrl.cli",
                "lmrl.data",
                "lmrl.evaluation",
                "lmrl.models",
                "lmrl.rewards",
                "lmrl.search",
                "lmrl.trainers",
            ),
            *(f"lmrl.{name}" for name in (*TRAINERS, "__version__")),
        ),
        None,
    ),
}


def sources(*places: str) -> list[Path]:
    """Returns the Python files of folders or files."""
    found = [ROOT / place for place in places]
    return sorted(path for place in found for path in ([place] if place.is_file() else place.rglob("*.py")))


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
        shared = SHARED if layer.others != ("torch",) else ()
        if within(module, (*layer.lmrl, *shared)):
            return None
        return f"of lmrl it may import {', '.join(layer.lmrl) or 'nothing'}"
    if layer.others is None or top in sys.stdlib_module_names or top in layer.others:
        return None
    return f"of other libraries it may import {', '.join(layer.others) or 'none'}"


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


def refuse(wrong: list[str]) -> None:
    """Fails with one sentence for each thing that is wrong."""
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.mark.parametrize("place", LAYERS)
def test_a_layer_imports_only_what_it_may(place: str) -> None:
    """The table of the architecture, in full."""
    refuse(
        [
            f"{name}:{line} imports {module}: {reason}"
            for name, tree in parsed(place)
            for line, module in imported(name, tree)
            if (reason := why_not(module, LAYERS[place]))
        ]
    )


def test_every_module_of_lmrl_is_in_a_layer() -> None:
    """A new folder is put into the table before anything else."""
    stray = [name for name, _ in parsed("lmrl") if not any(name == p or name.startswith(p + "/") for p in LAYERS)]
    refuse([f"{name} is in no layer of tests/test_layers.py" for name in stray])


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
    layer = Layer(("lmrl.rewards",), ())
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
    if not (ROOT / "lmrl/rewards/__init__.py").exists():
        pytest.skip("lmrl/rewards not written yet")
    code = "import sys, lmrl, lmrl.rewards; print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_recipes_use_public_names_only() -> None:
    """A recipe is what a user would write."""
    wrong = []
    for name, tree in parsed("recipes"):
        for line, module in imported(name, tree):
            private = [part for part in module.split(".") if part.startswith("_") and not part.endswith("__")]
            wrong += [f"{name}:{line} imports the private {module}"] * bool(private)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
                wrong.append(f"{name}:{node.lineno} uses the private {ast.unparse(node)}")
    refuse(wrong)


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


def test_nothing_but_tests_and_scripts_imports_recipes() -> None:
    """Recipes are not a package."""
    refuse(
        [
            f"{name}:{line} imports {module}"
            for name, tree in parsed("lmrl")
            for line, module in imported(name, tree)
            if within(module, ("recipes",))
        ]
    )


def test_files_have_at_most_300_lines() -> None:
    """A longer one is two."""
    lines = {
        path: len(path.read_text(encoding="utf-8").splitlines())
        for path in sources("lmrl", "recipes", "scripts", "benchmarks")
    }
    refuse([f"{path.relative_to(ROOT)} has {n} lines, at most 300" for path, n in lines.items() if n > 300])


def test_function_bodies_have_at_most_40_lines_and_15_in_core() -> None:
    """Counted without signature and docstring."""
    wrong = []
    for name, tree in parsed("lmrl", "recipes", "scripts", "benchmarks"):
        most = 15 if name.startswith("lmrl/core/") else 40
        for function in functions(tree):
            if (lines := body_lines(function)) > most:
                wrong.append(f"{name}:{function.lineno} {function.name} has {lines} lines, at most {most}")
    refuse(wrong)


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
    texts = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".cfg", ""}
    folders = [ROOT / name for name in ("lmrl", "recipes", "scripts", "benchmarks", "tests", ".ci", "docs")]
    paths = [path for folder in folders for path in folder.rglob("*")]
    paths += [path for path in ROOT.iterdir() if path.name != ".git"]  # a file in a worktree
    wrong = []
    for path in paths:
        if path.is_file() and path.suffix in texts and path.stat().st_size < 1_000_000:
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
                if found := machine.search(line) or host.search(line):
                    wrong.append(f"{path.relative_to(ROOT)}:{number} names {found.group()}")
    refuse(wrong)
