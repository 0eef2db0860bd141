"""The settings and held-out rows of an earlier run, for an evaluation."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from lmrl.data import demo_model_path, held_out_split, load_held_out, load_prompts
from lmrl.data.sources import splits_of
from lmrl.experiment.runs import RunRecord, read_run, row_keys
from lmrl.settings import is_given

# Settings of where rows come from and which are taken; all others are about how they become prompts.
_SOURCE = ("dataset_name", "dataset_config", "dataset_test_split", "eval_dataset_name", "column_names")
_DATA_NAMES = ("datasets", "eval_dataset_name", "dataset_name")
_OF_FIT = ("max_prompt_length", "long_prompts")


def run_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """
    Returns the settings of an earlier run as defaults for the arguments of `evaluate_gen.py`, for [`~lmrl.cli.parse`].

    Args:
        values (`dict`):
            Values of the arguments that were given; `run` is the folder of the run.

    Raises:
        ValueError: If the folder has no record of a run, or that of a run that trained no language model.
    """
    if values.get("run") is None:
        return {}
    run = read_run(values["run"])
    training = run.settings["training"]
    if "reference_column" not in run.settings["data"]:
        raise ValueError(
            f"`run` must be a run that trained a language model, got {values['run']!r}, of {run.recipe}. Its own "
            "scores are in scores.json."
        )
    found = {**run.settings["data"], **run.settings.get("evaluation", {})}
    del found["eval_rows"]  # all held-out rows of the run, or of other data
    found |= {name: run.settings["model"].get(name) for name in ("dtype", "attn_implementation", "load_in_4bit")}
    found["eval_max_new_tokens"] = found.get("eval_max_new_tokens") or training.get("max_completion_length")
    found["eval_temperature"] = training.get("temperature")
    found["chat_template_kwargs"] = training.get("chat_template_kwargs")
    found["eval_output_dir"] = str(run.path / "evaluation")  # beside the run's own report
    if others := [values[name] for name in _DATA_NAMES if values.get(name)]:
        found = _without_settings_of_source(found, others[0])
    return {name: value for name, value in found.items() if value is not None}


def _without_settings_of_source(found: Mapping[str, Any], given: str | list[str]) -> dict[str, Any]:
    """Returns the settings of a run without those of its data that do not fit the other data that is given."""
    left_out = {*_DATA_NAMES, "dataset_config", "dataset_test_split", "column_names"}
    is_table = isinstance(given, str) and Path(given).suffix.lower() in (".csv", ".tsv")
    if is_table:
        left_out.remove("column_names")
    if isinstance(given, str) and Path(given).is_dir() and found["dataset_test_split"] in splits_of(given, None):
        left_out.remove("dataset_test_split")
    return {name: value for name, value in found.items() if name not in left_out}


def run_systems(run: RunRecord | None) -> dict[str, str]:
    """Returns the models of a run, labelled `before` and `after` training; without a run the demo model."""
    demo = str(demo_model_path())
    if run is None:
        return {demo.split("/")[-1]: demo}
    return {"before": run.settings["model"].get("model_name_or_path") or demo, "after": str(run.path)}


def load_run_rows(run: RunRecord, data_args: Any) -> Dataset | None:
    """
    Returns the held-out rows of a run in their order, found by their content; `None` if other data is given.

    `data_args` ([`~lmrl.arguments.HeldOutArguments`]) have the data set, and how its rows become prompts, which may
    differ from the run. With `eval_rows` only the first ones are taken.

    Raises:
        ValueError: If the data set is the run's, but no longer has all of its held-out rows.
    """
    given = vars(data_args)
    trained_with = run.settings["data"]
    name = "eval_dataset_name"
    if is_given(data_args, name) and given[name] != trained_with.get(name):
        return None
    of_prompts = set(given) - {*_SOURCE, *_OF_FIT, "eval_rows"}
    as_in_run = given | {name: trained_with[name] for name in of_prompts if name in trained_with}
    places = _places(run.held_out, row_keys(_load_source(as_in_run, trained_with)))
    if places is None:
        if any(given[name] != trained_with.get(name) for name in _SOURCE):
            return None
        raise ValueError(
            f"`dataset_name` must have the {len(run.held_out)} held-out rows of {run.name}, got "
            f"{given['eval_dataset_name'] or given['dataset_name']!r} without some of them: it has changed since. "
            "Name the file as it was, or another data set with `eval_dataset_name`."
        )
    rows = given["eval_rows"]
    if rows is not None and rows > len(places):
        raise ValueError(f"`eval_rows` must be at most {len(places)}, the held-out rows of {run.name}, got {rows}.")
    return _load_source(given, trained_with).select(places[:rows])


def _load_source(data: Mapping[str, Any], trained_with: Mapping[str, Any]) -> Dataset:
    """Returns the rows from which the held-out ones were taken: a held-out split, or else the training rows."""
    columns = {name: value for name, value in data.items() if name not in (*_OF_FIT, "eval_rows")}
    split = held_out_split(data["dataset_name"], data["dataset_config"], data["dataset_test_split"])
    if data["eval_dataset_name"] is not None or split is not None:
        return load_held_out(**columns)
    for name in ("eval_dataset_name", "dataset_test_split"):
        del columns[name]
    return load_prompts(**columns, split=trained_with.get("dataset_train_split", "train"))


def _places(wanted: Sequence[str], present: Sequence[str]) -> list[int] | None:
    """Returns the index of each wanted key in `present`, each index once; `None` if a key is missing."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, key in enumerate(present):
        places[key].append(place)
    if any(count > len(places[key]) for key, count in Counter(wanted).items()):
        return None
    return [places[key].pop(0) for key in wanted]
