"""Rewards on the scale of what was seen."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace

import pytest

from lmrl.rewards import Length, Normalized, Weighted
from lmrl.rewards.normalize import Moments


class Trainer:
    """What TRL passes of a trainer to a reward."""

    def __init__(self, training=True):
        self.model = SimpleNamespace(training=training)
        self.logged = {}

    def _log_metric(self, name, value):
        self.logged[name] = value

    def passes(self):
        return {"trainer_state": SimpleNamespace(global_step=0), "log_metric": self._log_metric}


def own(completions, scores, **columns):
    return scores


def trained(reward, *scores, trainer=None, prompts=None):
    return reward(
        completions=["a"] * len(scores), scores=list(scores), prompts=prompts, **(trainer or Trainer()).passes()
    )


def standardized(scores, among):
    return pytest.approx([(score - mean(among)) / stdev(among) for score in scores], abs=1e-12)


def test_running_statistics_are_of_all_that_was_seen_this_batch_included():
    reward = Normalized(own)
    assert trained(reward, 1.0, 2.0, 6.0) == standardized([1, 2, 6], [1, 2, 6])
    assert trained(reward, 5.0, -3.0) == standardized([5, -3], [1, 2, 6, 5, -3])
    assert (reward.statistics.count, reward.statistics.mean) == (5, pytest.approx(2.2))
    assert reward.statistics.squares / 4 == pytest.approx(stdev([1, 2, 6, 5, -3]) ** 2)


def test_a_small_spread_far_from_zero_keeps_its_digits():
    """The sum of squares less the square of the sum, which one would write first, gives 0 here, or less."""
    reward, scores = Normalized(own), [1e6 + 0.001 * row for row in range(8)]
    trained(reward, *scores[:4])
    expected = [(row - 3.5) / 6**0.5 for row in range(4, 8)]  # the variance of 0 to 7 is 6
    assert trained(reward, *scores[4:]) == pytest.approx(expected, rel=1e-6)


def test_a_group_is_the_completions_of_a_prompt_wherever_they_are_in_the_batch():
    reward = Normalized(own, by="group")
    values = trained(reward, 1.0, 10.0, 3.0, 20.0, 60.0, prompts=["p", "q", "p", "q", "q"])
    assert values[0::2][:2] == standardized([1, 3], [1, 3])
    assert [values[row] for row in (1, 3, 4)] == standardized([10, 20, 60], [10, 20, 60])
    assert reward.state_dict() == {}


def test_the_same_prompt_with_other_references_is_another_group():
    def read(completions, scores, references, **columns):
        return scores

    read.columns = ("references",)
    call = {"completions": ["a"] * 4, "scores": [1.0, 2.0, 10.0, 30.0], "references": ["x", "x", "y", "y"]}
    values = Normalized(read, by="group")(
        **call, prompts=[[{"role": "user", "content": "p"}]] * 4, **Trainer().passes()
    )
    assert values == pytest.approx([-(0.5**0.5), 0.5**0.5, -(0.5**0.5), 0.5**0.5])


@pytest.mark.parametrize("by", ["running", "group"])
@pytest.mark.parametrize("score", [0.0, 0.1, -1e-30, 1e9 / 3])
def test_equal_scores_become_exactly_0(by, score):
    reward = Normalized(own, by=by)
    for _ in range(3):
        assert trained(reward, *[score] * 7, prompts=["p"] * 7) == [0.0] * 7


@pytest.mark.parametrize("by", ["running", "group"])
def test_none_stays_and_is_left_out(by):
    values = trained(Normalized(own, by=by), 1.0, None, 3.0, prompts=["p"] * 3)
    assert values == [pytest.approx(-(0.5**0.5)), None, pytest.approx(0.5**0.5)]
    assert trained(Normalized(own, by=by), None, prompts=["p"]) == [None]


@pytest.mark.parametrize("by", ["running", "group"])
def test_a_single_score_has_no_spread(by):
    assert trained(Normalized(own, by=by), 3.0, prompts=["p"]) == [0.0]


@pytest.mark.parametrize("passed", [{}, {"trainer_state": None}, Trainer(training=False).passes()])
@pytest.mark.parametrize("by", ["running", "group"])
def test_outside_training_the_reward_is_given_as_it_is_and_nothing_is_learned(by, passed):
    reward = Normalized(own, by=by)
    trained(reward, 1.0, 2.0, prompts=["p", "p"])
    before = reward.statistics
    assert reward(completions=["a", "b"], scores=[7.0, None], prompts=["p", "p"], **passed) == [7.0, None]
    assert reward.statistics is before


def test_a_trainer_without_a_mode_trains():
    reward = Normalized(own)
    reward(completions=["a", "b"], scores=[1.0, 2.0], trainer_state=SimpleNamespace())
    assert reward.statistics.count == 2


def test_the_reward_as_it_is_is_logged():
    trainer = Trainer()
    trained(Normalized(own), 1.0, 3.0, trainer=trainer)
    assert trainer.logged == {"own_normalized/own": 2.0}


def test_what_was_learned_is_saved_and_taken_up():
    first, again = (Weighted({Normalized(own): 1.0, Length(2): 1.0}) for _ in range(2))
    trained(first, 1.0, 2.0, 6.0)
    state = json.loads(json.dumps(first.state_dict()))
    assert state == {"own_normalized": {"statistics": [3, 3.0, 14.0]}}
    again.load_state_dict(state)
    assert trained(again, 5.0) == [pytest.approx((5 - 3.5) / stdev([1, 2, 6, 5]) + 0.5)]
    assert again.state_dict() != state
    assert Length(2).state_dict() == {}


def test_statistics_within_statistics_are_saved():
    reward, again = (Normalized(Normalized(own), by="group") for _ in range(2))
    trained(reward, 1.0, 3.0, prompts=["p", "p"])
    assert reward.state_dict() == {"components": {"own_normalized": {"statistics": [2, 2.0, 2.0]}}}
    again.load_state_dict(reward.state_dict())
    assert again.components[0].statistics == Moments(2, 2.0, 2.0)


def test_a_state_that_is_not_its_own_is_refused():
    with pytest.raises(ValueError, match=r"its components \['length'\], got \['other'\]"):
        Weighted({Length(2): 1.0}).load_state_dict({"other": {}})
    with pytest.raises(ValueError, match=r"state of the reward 'length' must be empty, got"):
        Length(2).load_state_dict({"statistics": [1]})


def test_it_pickles_with_what_it_has_learned():
    reward = Normalized(Length(2), by="running")
    reward(completions=["a", "a b"], **Trainer().passes())
    again = pickle.loads(pickle.dumps(reward))
    assert again.statistics == reward.statistics == Moments(2, 0.75, 0.125)
    assert (again.__name__, again.signature) == (
        "length_normalized",
        "normalized(length|target:2|unit:words, by running)",
    )


def test_what_cannot_be_normalised_is_refused():
    with pytest.raises(ValueError, match="`by` must be one of running, group, got 'batch'"):
        Normalized(own, by="batch")
    with pytest.raises(ValueError, match="needs `prompts`"):
        trained(Normalized(own, by="group"), 1.0, 2.0)


def test_two_processes_have_the_statistics_of_one(tmp_path):
    """A group is split over them, and in the second batch one of them has no score at all."""
    worker = Path(__file__).with_name("normalize_worker.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(worker), str(tmp_path / "meeting")]
    started = [
        subprocess.Popen([*command, rank], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    first, second = (json.loads(printed.splitlines()[-1]) for printed, _ in ended)
    batch, later = [1.0, 2.0, 6.0, 5.0, 4.0], [8.0, -1.0]
    assert first["running"] + second["running"] == standardized(batch, batch)
    assert first["later"] == [None, None]
    assert second["later"] == standardized(later, batch + later)
    assert first["statistics"] == second["statistics"] == pytest.approx([7, 25 / 7, 147 - 25**2 / 7])
    assert first["group"][0] == pytest.approx(-(0.5**0.5))  # alone of its prompt but for one of the other process
    assert first["group"][1:] + second["group"][1:] == standardized([2, 6, 4], [2, 6, 4])
    assert second["group"][0] == pytest.approx(0.5**0.5)
