"""No recipe offers an argument that nothing reads: found in the source of what each recipe calls."""

import ast
import dataclasses
import importlib.util
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ("evaluate_gen", "ppo_gen", "reinforce_gen", "sft", "train_classifier", "train_reward_model")
PACKAGES = ("lmrl", "trl", "transformers", "recipe")
# What transformers' configuration and Trainer call that is no method.
LIBRARY = (
    *("training_args", "trainer_callback", "trainer_utils", "trainer_pt_utils", "trainer_optimizer"),
    "integrations/integration_utils",
)
# Only the scripts among the examples of transformers read these, as their descriptions state.
OF_SCRIPTS = {"do_train", "do_eval", "do_predict", "local_rank"}

Source = tuple[ast.AST, dict[str, Any]]


def load(recipe: str) -> ModuleType:
    """Returns a recipe as a module, without running it."""
    spec = importlib.util.spec_from_file_location("recipe", ROOT / "recipes" / f"{recipe}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["recipe"] = module
    spec.loader.exec_module(module)
    return module


def source_of(function: FunctionType) -> Source:
    """Returns the syntax tree of a function and the names that it sees; an empty tree for one without a file."""
    try:
        text = inspect.getsource(function)
    except OSError:
        text = ""
    return ast.parse(textwrap.dedent(text)), function.__globals__


def methods(kind: type) -> Iterator[Source]:
    """Yields the methods that run: of those that a subclass defines anew, the inherited ones only if it calls them."""
    replaced = set()
    for base in kind.__mro__:
        if base.__module__.split(".")[0] not in PACKAGES:
            continue
        for name, value in vars(base).items():
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            is_check = (
                dataclasses.is_dataclass(kind) and name == "__post_init__" and base.__module__ == "lmrl.arguments"
            )
            if name in replaced or is_check or not isinstance(function, FunctionType):
                continue
            tree, scope = source_of(function)
            yield tree, scope
            if not any(isinstance(node, ast.Name) and node.id == "super" for node in ast.walk(tree)):
                replaced.add(name)


def named(tree: ast.AST, scope: dict[str, Any]) -> Iterator[Any]:
    """Yields the objects that a tree names: those of its module, those of other modules, and what it imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield scope.get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield getattr(scope.get(node.value.id), node.attr, None)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("lmrl", "trl"):
            module = importlib.import_module(node.module)
            yield from (getattr(module, alias.name, None) for alias in node.names)


def called(module: ModuleType) -> list[ast.AST]:
    """Returns the trees of a recipe, and of the functions and methods of lmrl and TRL that it calls in the end."""
    pending: list[Source] = [(ast.parse(inspect.getsource(module)), vars(module))]
    seen: set[Any] = set()
    trees = []
    while pending:
        tree, scope = pending.pop()
        trees.append(tree)
        for found in named(tree, scope):
            if not isinstance(found, FunctionType | type) or found in seen:
                continue
            seen.add(found)
            is_trainer = isinstance(found, type) and found.__module__.startswith("transformers.trainer")
            if found.__module__.split(".")[0] in ("lmrl", "trl", "recipe") or is_trainer:
                pending.extend(methods(found) if isinstance(found, type) else [source_of(found)])
    return trees


def read_in(trees: list[ast.AST]) -> set[str]:
    """Returns the names that trees read as attributes, as texts (`getattr`) or as parameters (`**vars(arguments)`)."""
    names = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            names.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return names


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_argument_of_a_recipe_is_read(recipe: str) -> None:
    module = load(recipe)
    trees = called(module)
    if any(ancestor.__name__ == "TrainingArguments" for kind in offered(module) for ancestor in kind.__mro__):
        import transformers

        folder = Path(transformers.__file__).parent
        trees += [
            ast.parse((folder / f"{name}.py").read_text()) for name in LIBRARY if (folder / f"{name}.py").exists()
        ]
    read = read_in(trees) | OF_SCRIPTS
    unread = [
        f"{kind.__name__}.{field.name}"
        for kind in offered(module)
        for field in dataclasses.fields(kind)
        if field.init and field.name not in read
    ]
    assert unread == []


def offered(module: ModuleType) -> list[type]:
    """Returns the dataclasses that a recipe passes to `parse`."""
    tree = ast.parse(inspect.getsource(module))
    (call,) = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "parse")
    kinds: list[type] = []
    for argument in call.args:
        value = getattr(module, ast.unparse(argument).lstrip("*"))
        kinds += value if isinstance(argument, ast.Starred) else [value]
    return kinds
