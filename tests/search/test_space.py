"""What can be searched, and the message for what cannot."""

import json
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lmrl.search import SweepArguments, read_space
from lmrl.search.space import as_argv

TYPES = {
    "beta": "float",
    "learning_rate": "float",
    "kl_target": "float | None",
    "num_generations": "int",
    "max_train_rows": "int | None",
    "critic": "typing.Literal['shared', 'separate']",
    "rewards": "list[str | dict[str, typing.Any]]",
    "use_peft": "bool",
}


def test_a_range_and_choices_become_distributions() -> None:
    space = read_space(
        {
            "learning_rate": {"low": "1e-5", "high": 1e-3, "log": True},  # YAML takes 1e-5 for text
            "num_generations": {"low": 2, "high": 8, "step": 2},
            "max_train_rows": {"low": 10, "high": 1000, "log": True},
            "beta": {"low": 0, "high": 1},  # written with integers, but the argument is a float
            "kl_target": {"low": 1, "high": 4},
            "critic": ["shared", "separate"],
        },
        TYPES,
    )
    assert space == {
        "learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
        "num_generations": IntDistribution(2, 8, step=2),
        "max_train_rows": IntDistribution(10, 1000, log=True),
        "beta": FloatDistribution(0.0, 1.0),
        "kl_target": FloatDistribution(1.0, 4.0),
        "critic": CategoricalDistribution(["shared", "separate"]),
    }


def test_without_types_a_range_has_integers_where_it_is_written_with_integers() -> None:
    space = read_space({"a": {"low": 1, "high": 4}, "b": {"low": 1, "high": 4.0}, "c": {"low": "1e-5", "high": 1}})
    assert space == {
        "a": IntDistribution(1, 4),
        "b": FloatDistribution(1.0, 4.0),
        "c": FloatDistribution(1e-5, 1.0),
    }


def test_values_are_written_as_the_command_line_reads_them() -> None:
    space = read_space({"rewards": [["bleu"], ["bleu", {"length": {"target": 20}}]]}, TYPES)
    assert as_argv("use_peft", True) == ["--use_peft", "true"]
    assert as_argv("beta", 0.05) == ["--beta", "0.05"]
    assert as_argv("critic", "shared") == ["--critic", "shared"]
    assert as_argv("prompt_template", "{mr} ->") == ["--prompt_template", "{mr} ->"]
    assert as_argv("rewards", space["rewards"].choices[1]) == ["--rewards", "bleu", '{"length": {"target": 20}}']


def test_a_space_is_read_from_json_and_from_a_file(tmp_path: Path) -> None:
    space = {"beta": [0.01, 0.1], "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}
    (tmp_path / "space.yaml").write_text("beta: [0.01, 0.1]\nlearning_rate: {low: 1e-5, high: 1e-3, log: true}\n")
    read = [read_space(source, TYPES) for source in (space, json.dumps(space), str(tmp_path / "space.yaml"))]
    assert read[0] == read[1] == read[2]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"learning_rat": [1]},
            "must name arguments of the recipe, got 'learning_rat'. Did you mean `learning_rate`?",
        ),
        ({"learning-rates": [1]}, "Did you mean `learning_rate`?"),
        ({"output_dir": ["a"]}, "`space` must not have `output_dir`, got ['a']."),
        ({"beta": []}, "`space.beta` must be a list of choices or a range with low and high, got []."),
        ({"beta": 0.1}, "`space.beta` must be a list of choices or a range with low and high, got 0.1."),
        ({"beta": [0.1, 0.1]}, "The choices are not distinct."),
        ({"eval_rows": [None]}, "must name arguments of the recipe"),
        ({"kl_target": [None, 6.0]}, "A command line cannot express such choices."),
        ({"rewards": [[], ["bleu"]]}, "A command line cannot express such choices."),
        ({"beta": {"low": 0.1}}, "missing 1 required positional argument: 'high'"),
        ({"beta": {"low": 0.1, "high": "many"}}, "could not convert string to float: 'many'"),
        ({"beta": {"low": 0.1, "high": float("nan")}}, "got {'low': 0.1, 'high': nan}."),
        ({"beta": {"low": 0.1, "hihg": 1}}, "A range has no 'hihg'. Did you mean `high`?"),
        ({"beta": {"low": 0.1, "high": 0.1}}, "low is not below high"),
        ({"beta": {"low": 0.2, "high": 0.1}}, "`low <= high` must hold"),
        ({"beta": {"low": 0, "high": 1, "log": True}}, "`low > 0` must hold for `log=True`"),
        ({"beta": {"low": 0.1, "high": 1, "log": True, "step": 0.1}}, "`step` is not supported when `log` is true"),
        ({"beta": {"low": 0, "high": 1, "step": 2}}, "low is not below high by a step"),
        ({"beta": {"low": 0, "high": 1, "step": -1}}, "`step > 0` must hold"),
        ({"beta": {"low": 0.1, "high": 1, "log": "yes"}}, "log is true or false"),
        ({"num_generations": {"low": 1.5, "high": 4}}, "The argument is an integer."),
        ({"critic": {"low": 0, "high": 1}}, "The argument is not a number"),
        ({}, "`space` must have names of arguments, got {}. Example: "),
        (None, "`space` must have names of arguments, got None. Example: "),
        ('{"beta": [0.1', "`space` must be JSON or a YAML file, got '{\"beta\": [0.1'."),
        ("nowhere.yaml", "`space` must be JSON or a YAML file, got 'nowhere.yaml'. Reason: [Errno 2] No such file"),
    ],
)
@pytest.mark.filterwarnings("ignore:The distribution is specified by")
def test_what_cannot_be_searched_has_its_message(space: Any, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_space(space, TYPES)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trials": 0}, "`trials` must be at least 1, got 0."),
        ({"workers": 0}, "`workers` must be at least 1, got 0."),
        ({"seed": -1}, "`seed` must be at least 0, got -1."),
        ({"max_kl": 0.0}, "`max_kl` must be above 0, got 0.0."),
    ],
)
def test_arguments_out_of_range_have_their_message(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SweepArguments(**({"space": {"beta": [0.1]}} | arguments))
