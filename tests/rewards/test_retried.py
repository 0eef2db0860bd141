"""A reward that fails now and then is called again, as often as the user chose."""

import pickle
from typing import Any

import pytest

from lmrl.rewards import Length, Normalized, Retried, make_reward

calls: list[int] = []


def third_time(completions: list[str], **_: Any) -> list[float]:
    """Raises at the first two calls, as a service that is out of reach."""
    calls.append(len(completions))
    if len(calls) < 3:
        raise ConnectionError("no route to the scorer.")
    return [float(len(text)) for text in completions]


async def third_time_later(**inputs: Any) -> list[float]:
    """Returns the same, later."""
    return third_time(**inputs)


@pytest.fixture(autouse=True)
def no_calls() -> None:
    """Begins to count."""
    calls.clear()


@pytest.mark.parametrize("reward", [third_time, third_time_later])
@pytest.mark.filterwarnings("ignore:The reward")
def test_it_is_called_until_it_returns(reward: Any) -> None:
    assert Retried(reward, retries=2, wait=0)(completions=["a", "bc"], prompts=["p", "q"]) == [1.0, 2.0]
    assert calls == [2, 2, 2]


def test_each_failure_is_a_warning_with_the_next_attempt() -> None:
    with pytest.warns(RuntimeWarning) as warned:
        Retried(third_time, wait=0.01)(completions=["a"])
    assert [str(warning.message) for warning in warned] == [
        "The reward 'third_time' raised ConnectionError: no route to the scorer. "
        f"Attempt {n} of 3 follows in {wait} s."
        for n, wait in ((2, 0.01), (3, 0.02))
    ]


@pytest.mark.filterwarnings("ignore:The reward")
def test_the_last_failure_is_raised() -> None:
    with pytest.raises(ConnectionError, match="no route"):
        Retried(third_time, retries=1, wait=0)(completions=["a"])
    assert calls == [1, 1]


def test_it_is_the_reward_in_all_else() -> None:
    reward = make_reward({"retried": {"reward": {"length": {"target": 4}}, "retries": 3, "wait": 0.5}})
    again = pickle.loads(pickle.dumps(reward))
    assert (again.__name__, again.signature, again.range) == ("length", Length(4).signature, (0.0, 1.0))
    assert (again.retries, again.wait) == (3, 0.5)
    assert again(completions=["one two"]) == [0.5]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"retries": 0}, "`retries` must be at least 1, got 0"),
        ({"wait": -1.0}, "`wait` must be at least 0, got -1.0"),
        ({"wait": float("nan")}, "`wait` must be at least 0, got nan"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Retried(Length(4), **options)


def test_statistics_are_not_retried() -> None:
    learned = Normalized(Length(4))
    learned.load_state_dict({"statistics": [2, 0.5, 0.1]})
    with pytest.raises(ValueError, match="must have no state, got 'length_normalized'"):
        Retried(learned)
