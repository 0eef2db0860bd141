"""The blocks of a YAML file that several recipes read: `data:`, `model:`, and one by the name of each recipe."""

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lmrl.utils import did_you_mean, shorten

from .catalog import recipe_names

SHARED = {"data": "Data", "model": "Model"}  # the blocks that every recipe reads, with the group of their arguments

Entries = dict[str, tuple[Any, Any]]  # by name: the value, and the text in the file


def entries_of_recipe(config: Mapping[Any, Any], written: Mapping[Any, Any], own: Collection[str]) -> Entries:
    """
    Returns the entries of a YAML file that apply to the running recipe, by name.

    Names at the top are the recipe's. `data:` and `model:` are for all recipes; names that only other recipes have are
    left out. The block with the recipe's name overrides both, other recipes' blocks are only checked.

    `written` has every number, switch and date as text; `own` are the recipe's arguments, former names included.

    Raises:
        ValueError: For a name that no recipe has, one at the top that is another recipe's, or one given twice.
    """
    recipe = Path(sys.argv[0]).stem
    blocks = (*SHARED, recipe, *recipe_names())
    at_top: Entries = {}
    of_recipe: Entries = {}
    for name, value in config.items():
        text = written.get(name, value)
        is_script = (Path(sys.argv[0]).parent / f"{name}.py").is_file()  # another script beside this one
        if name in own or not (is_script or name in blocks):
            _check_own(name, own, is_block=isinstance(value, dict))
            _add(at_top, name, (value, text))
            continue
        if not isinstance(value, dict):
            raise ValueError(f"`{name}` must be a block of lines `name: value`, got {shorten(value)}.")
        _refuse_nested(name, value, blocks)
        for inner, given in value.items():
            entry = (given, text.get(inner, given))
            if name == recipe:
                _check_own(inner, own)
                of_recipe[inner] = entry
            elif name not in SHARED:
                _check_other(inner, name)
            elif _is_shared(inner, name, own):
                _add(at_top, inner, entry)
    return at_top | of_recipe


def owners_of(name: str) -> str:
    """Returns the names of lmrl's recipes that have an argument, as text, which may be empty."""
    owners = [recipe for recipe, groups in recipe_names().items() if name in groups]
    return " and ".join([", ".join(owners[:-1]), owners[-1]] if len(owners) > 1 else owners)


def _refuse_nested(name: str, block: Mapping[Any, Any], blocks: Collection[str]) -> None:
    for nested in blocks:
        if nested in block:
            raise ValueError(f"`{nested}` must be a block at the top, got it in `{name}`. Indent it less.")


def _add(entries: Entries, name: str, entry: tuple[Any, Any]) -> None:
    if name in entries:
        raise ValueError(f"`{name}` must be given once, got it at the top and in `data` or `model`. Leave out either.")
    entries[name] = entry


def _check_own(name: Any, own: Collection[str], is_block: bool = False) -> None:
    """Raises an error for a name that is no argument of the running recipe."""
    if name in own:
        return
    if owners := owners_of(str(name)):
        raise ValueError(f"`{name}` belongs to {owners}. Put it into a block with the name of the recipe.")
    known = [*own, *SHARED, *recipe_names()]
    others = " `--help all` prints all of them."
    if is_block:
        others = " Blocks are `data`, `model` and those of recipes: write the names of other groups at the top."
    # A block such as `training` is like the name of an argument that has nothing to do with it.
    hint = did_you_mean(str(name).replace("-", "_"), known, cutoff=0.8 if is_block else 0.6)
    raise ValueError(f"unknown name `{name}`.{hint or others}")


def _check_other(name: Any, recipe: str) -> None:
    """Raises an error for a name in another recipe's block that is no argument of that recipe."""
    names = recipe_names().get(recipe)
    if names is None or name in names:  # the arguments of a recipe outside lmrl are unknown
        return
    owners = owners_of(name)
    belongs = f" It belongs to {owners}." if owners else did_you_mean(str(name).replace("-", "_"), names)
    raise ValueError(f"unknown name `{name}` in `{recipe}`.{belongs or f' `{recipe}.py --help all` prints all.'}")


def _is_shared(name: str, block: str, own: Collection[str]) -> bool:
    """Returns whether the running recipe has a name in a shared block; raises an error if no recipe has it."""
    groups = {names[name] for names in recipe_names().values() if name in names}
    if groups and SHARED[block] not in groups:
        raise ValueError(
            f"`{name}` must be at the top or in the block of a recipe, got it in `{block}`. That has the arguments of "
            f"the group {SHARED[block].upper()} of `--help all`."
        )
    if name not in own and not groups:
        names = {name for names in recipe_names().values() for name, group in names.items() if group == SHARED[block]}
        hint = did_you_mean(str(name).replace("-", "_"), names) or " `--help all` prints all of them."
        raise ValueError(f"unknown name `{name}` in `{block}`.{hint}")
    return name in own
