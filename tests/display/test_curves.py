"""Logs of runs, and the curves that the report shows."""

import json
import math

import pytest

from lmrl.display.curves import OPTIMIZER_PANELS, curve, curves_of, panels, smoothed, thinned, time_shares
from lmrl.evaluation import read_log
from lmrl.evaluation.reporting.figures import frontier_charts


def write(folder, log):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}), encoding="utf-8")


def test_a_folder_without_a_run_has_an_empty_log(tmp_path):
    assert read_log(tmp_path) == []
    assert read_log(tmp_path / "missing") == [] and read_log("some/hub-id") == []


def test_an_interrupted_run_has_the_log_of_its_newest_checkpoint(tmp_path):
    write(tmp_path / "checkpoint-9", [{"step": 9}])
    write(tmp_path / "checkpoint-10", [{"step": 10}])
    (tmp_path / "checkpoint-11").mkdir()  # interrupted while it was saved
    write(tmp_path / "checkpoint-best", [{"step": 99}])
    assert read_log(tmp_path) == [{"step": 10}]
    write(tmp_path, [{"step": 12}])
    assert read_log(tmp_path) == [{"step": 12}]


def test_a_run_that_still_trains_has_the_log_of_its_lines(tmp_path):
    write(tmp_path, [{"step": 1}])
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_log(tmp_path) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("content", [b"{", b"{}", b"[1]", b'{"\xff": 1}'])
def test_a_file_that_is_not_a_trainer_state_is_refused(tmp_path, content):
    (tmp_path / "trainer_state.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"trainer_state\.json` must be a trainer state with a `log_history`, got"):
        read_log(tmp_path)


def test_a_curve_has_the_steps_at_which_a_number_was_logged():
    log = [
        {"step": 1, "reward": 0.5},
        {"step": 1, "eval_bleu": 70},
        {"step": 3, "reward": None},
        {"step": 4, "reward": 1},
    ]
    assert curve(log, "reward") == [(1.0, 0.5), (4.0, 1.0)]
    assert curve(log, "eval_bleu") == [(1.0, 70.0)] and curve(log, "nothing") == []


def test_panels_show_what_any_run_logged_in_a_fixed_order():
    first = [{"step": 1, "entropy": 1.0, "kl_per_sequence": 0.1, "kl": 0.01, "reward": 0.5, "rewards/bleu/mean": 0.5}]
    second = [{"step": 2, "eval_bleu": 70.0, "eval_runtime": 3.0, "eval_samples_per_second": 9.0, "epoch": 0.1}]
    assert panels({"a": first, "b": second}) == {
        "Reward": {"a": [(1.0, 0.5)], "b": []},
        "KL to the reference (nats per completion)": {"a": [(1.0, 0.1)], "b": []},
        "Entropy (nats per token)": {"a": [(1.0, 1.0)], "b": []},
        "Held out: bleu": {"a": [], "b": [(2.0, 70.0)]},
    }
    assert panels({}) == panels({"a": []}) == panels({"a": [{"step": 1}]}) == {}


def test_components_of_the_reward_have_panels_if_there_are_several():
    log = [{"step": 1, "reward": 1.0, "rewards/a/mean": 0.4, "rewards/a/std": 0.1, "rewards/b/mean": 0.6, "kl": 0.2}]
    assert list(panels({"run": log})) == [
        *("Reward (weighted total)", "Reward: a", "Reward: b", "KL to the reference (nats per token)")
    ]


def test_a_run_without_rewards_shows_its_loss():
    log = [{"step": 1, "loss": 2.0, "mean_token_accuracy": 0.5, "eval_loss": 2.1}]
    assert list(panels({"run": log})) == ["Loss", "Token accuracy", "Held out: loss"]
    assert "Loss" not in panels({"run": [{"step": 1, "loss": 2.0, "reward": 0.5}]})


def test_held_out_scores_of_the_start_and_the_end_alone_have_no_panel():
    log = [{"step": step, "eval_bleu": 50.0 + step, "eval_loss": 1.0} for step in (0, 10, 20)]
    assert list(panels({"run": log})) == ["Held out: bleu", "Held out: loss"]
    assert panels({"run": [log[0], log[2]], "other": []}) == {}
    assert list(panels({"run": log[1:]})) == ["Held out: bleu", "Held out: loss"]


def test_the_optimizer_and_the_throughput_have_panels():
    log = [{"step": 1, "learning_rate": 1e-4, "grad_norm": 0.5, "samples_per_second": 8.0, "tokens_per_second": 90.0}]
    names = ["Learning rate", "Gradient norm", "Completions per second", "Tokens per second"]
    assert list(curves_of({"run": log}, OPTIMIZER_PANELS)) == names


def test_the_shares_of_time_are_those_of_moving_averages():
    log = [
        {"step": s, "time/generation": 3.0, "time/scoring": 1.0, "time/reward": 0.0, "time/update": 4.0}
        for s in (1, 2)
    ]
    expected = {"generation": 37.5, "scoring": 12.5, "reward": 0.0, "update": 50.0}
    assert time_shares(log) == {stage: [(1.0, share), (2.0, share)] for stage, share in expected.items()}
    assert time_shares([]) == time_shares([{"step": 1, "reward": 0.5}]) == {}


def test_of_a_short_log_each_step_has_its_own_shares_of_time():
    log = [{"step": s, "time/generation": 1.0 + 2 * (s == 2), "time/update": 1.0} for s in (1, 2, 3)]
    log = [{**row, "time/scoring": 0.0, "time/reward": 0.0} for row in log]
    assert time_shares(log)["generation"] == [(1.0, 50.0), (2.0, 75.0), (3.0, 50.0)]


def test_a_moving_average_has_no_bias_at_its_start():
    constant = [(float(step), 3.0) for step in range(40)]
    assert [value for _, value in smoothed(constant)] == pytest.approx([3.0] * 40)
    # 20 points: a decay of 1 - 2 / 3, so that the newest of two values weighs 2 / 3 of 8 / 9.
    steps = [(0.0, 0.0), (1.0, 1.0), (2.0, math.nan), *((float(step), 0.0) for step in range(3, 20))]
    averages = smoothed(steps)
    assert averages[1][1] == pytest.approx(3 / 4) and math.isnan(averages[2][1])
    assert averages[3][1] == pytest.approx((2 / 9) / (26 / 27))


def test_a_long_curve_is_thinned_to_means():
    points = [(float(step), float(step)) for step in range(1, 481)]
    assert thinned(points[:240]) == points[:240]
    assert thinned(points) == [(float(step), step - 0.5) for step in range(2, 481, 2)]
    assert thinned(points[:241])[-1] == (241.0, 241.0)


def test_a_thinned_curve_leaves_out_what_is_not_finite():
    points = [(float(step), math.nan if step % 2 or step < 2 else 1.0 * step) for step in range(480)]
    thin = thinned(points)
    assert thin[0][0] == 1.0 and math.isnan(thin[0][1])
    assert thin[1:3] == [(3.0, 2.0), (5.0, 4.0)]


def test_the_trail_of_reward_and_kl_has_the_steps_that_logged_both():
    log = [{"step": 1, "reward": 0.1, "kl_per_sequence": 1.0}, {"step": 2, "reward": 0.2}, {"step": 3, "reward": 0.3}]
    log[2]["kl_per_sequence"] = 3.0
    (chart,) = frontier_charts({}, {"run": log}, [])
    assert "run, point 1: 1.00, 0.1000" in chart and "run, point 2: 3.00, 0.3000" in chart
    assert frontier_charts({}, {"run": log[:1], "other": []}, []) == []
