"""What can be searched, and the sentence for what cannot."""

import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from lmrl.arguments import EvaluationArguments, ModelArguments, RewardArguments
from lmrl.search import Objective, SweepArguments, read_space
from lmrl.trainers import PPOConfig

KINDS = (ModelArguments, RewardArguments, EvaluationArguments, PPOConfig)
HINTS = {name: hint for kind in KINDS for name, hint in get_type_hints(kind).items()}


def test_a_range_and_choices_become_distributions() -> None:
    space = read_space(
        {
            "learning_rate": {"low": "1e-5", "high": 1e-3, "log": True},  # YAML takes 1e-5 for text
            "num_generations": {"low": 2, "high": 8, "step": 2},
            "beta": {"low": 0, "high": 1},
            "critic": ["shared", "separate"],
        },
        HINTS,
    )
    told = {name: dimension.distribution() for name, dimension in space.items()}
    assert (told["learning_rate"].low, told["learning_rate"].high, told["learning_rate"].log) == (1e-5, 1e-3, True)
    assert [told["num_generations"].low, told["num_generations"].high, told["num_generations"].step] == [2, 8, 2]
    assert type(told["num_generations"].low) is int
    assert type(told["beta"]).__name__ == "FloatDistribution"  # whole ends, but the argument is no integer
    assert told["critic"].choices == ("shared", "separate")


def test_values_are_written_as_the_command_line_reads_them() -> None:
    given = {"use_peft": [True, False], "rewards": [["bleu"], ["bleu", {"length": {"target": 20}}]], "beta": [0.05, 1]}
    space = read_space(given, HINTS)
    assert space["use_peft"].argv(True) == ["--use_peft", "true"]
    assert space["beta"].argv(0.05) == ["--beta", "0.05"]
    both = space["rewards"].distribution().choices[1]
    assert space["rewards"].argv(both) == ["--rewards", "bleu", '{"length": {"target": 20}}']


def test_a_space_is_read_from_json_and_from_a_file(tmp_path: Path) -> None:
    space = {"beta": [0.01, 0.1], "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}
    (tmp_path / "space.yaml").write_text("beta: [0.01, 0.1]\nlearning_rate: {low: 1e-5, high: 1e-3, log: true}\n")
    read = [read_space(given, HINTS) for given in (space, json.dumps(space), str(tmp_path / "space.yaml"))]
    assert read[0] == read[1] == read[2]


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        ({"learning_rat": [1]}, "'learning_rat', which is no argument of the recipe: did you mean learning_rate?"),
        ({"output_dir": ["a"]}, "'output_dir', which cannot be searched: each trial has a folder of its own"),
        ({"beta": []}, "beta: [], but must have a list of choices, or a range with low and high"),
        ({"beta": 0.1}, "beta: 0.1, but must have a list of choices"),
        ({"beta": [0.1, 0.1]}, "choices must differ"),
        ({"max_train_rows": [None]}, "no argument of the recipe"),
        ({"kl_target": [None, 6.0]}, "kl_target with the choice None, which no command line can say"),
        ({"beta": {"low": 0.1}}, "beta with high None, but must be a number"),
        ({"beta": {"low": 0.1, "high": "many"}}, "beta with high 'many', but must be a number"),
        (
            {"beta": {"low": 0.1, "hihg": 1}},
            "beta with 'hihg', but a range has low, high, log, step: did you mean high?",
        ),
        ({"beta": {"low": 0.1, "high": 0.1}}, "beta from 0.1 to 0.1, but low must be below high"),
        ({"beta": {"low": 0, "high": 1, "log": True}}, "beta from 0 to 1 with log, which needs low above 0"),
        ({"beta": {"low": 0, "high": 1, "step": 2}}, "beta from 0 to 1 with step 2"),
        ({"beta": {"low": 0.1, "high": 1, "log": "yes"}}, "beta with log 'yes', but must be true or false"),
        ({"num_generations": {"low": 1.5, "high": 4}}, "num_generations from 1.5 to 4, but it takes integers"),
        ({"critic": {"low": 0, "high": 1}}, "a range for critic, which is no number: list its choices"),
        ({}, "space is {}, but must name arguments"),
        ('{"beta": [0.1', "space is no valid JSON"),
        ("nowhere.yaml", "the file of --space, 'nowhere.yaml', cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(space: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_space(space, HINTS)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "space is not given"),
        ({"trials": 0}, "trials is 0, but must be at least 1"),
        ({"workers": 0}, "workers is 0, but must be at least 1"),
        ({"max_kl": 0.0}, "max_kl is 0.0, but must be over 0"),
    ],
)
def test_arguments_that_cannot_be_are_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        SweepArguments(**({"space": {"beta": [0.1]}} if given else {}) | given)


def test_an_objective_is_a_score_or_the_weighted_rewards() -> None:
    scores = {"bleu": 40.0, "reward/bleu": 0.5, "reward/length": 0.25, "reward/chrf": 0.9}  # the last is a metric only
    assert Objective("bleu").value(scores) == 40.0
    assert Objective("reward", weights=(1.0, 2.0)).value(scores) == 1.0
    logged = {f"eval_{name}": value for name, value in scores.items()}
    assert Objective("reward", weights=(1.0, 2.0)).value(logged, prefix="eval_") == 1.0
    assert Objective("kl").value(scores) is None
    with pytest.raises(ValueError, match="objective is 'blue': did you mean bleu"):
        Objective("blue")
