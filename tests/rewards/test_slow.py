"""Rewards scored once, or in processes that can be killed: the same numbers, and nothing left behind."""

import asyncio
import gc
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import slow_rewards

from lmrl.rewards import BLEU, Cached, InWorkers, Length, Normalized, Retried, Weighted, make_reward
from lmrl.rewards.base import call_reward

REFERENCES = [["the cat sat on the mat"], ["no", "never"], ["a b"], ["x y z"]]
TEXTS = ["the cat sat", "no", "b a", "x y w"]


class Stateful:
    """Has a state to be saved."""

    def __call__(self, completions, **columns):
        return [0.0 for _ in completions]

    def state_dict(self):
        return {"rows": 0}


class Counting:
    """Calls another reward and keeps the rows of each call."""

    def __init__(self, reward):
        self.reward = reward
        self.calls = []

    def __call__(self, completions, **columns):
        self.calls.append(list(completions))
        return self.reward(completions=completions, **columns)


def alive(pid):
    """Returns whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def exists(pid):
    """Returns whether a process exists, be it as a zombie."""
    return Path(f"/proc/{int(pid)}").exists()


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# Cached


def test_a_cache_gives_the_same_numbers():
    bleu = BLEU()
    cached = Cached(BLEU())
    for _ in range(2):
        assert cached(completions=TEXTS, references=REFERENCES) == bleu(completions=TEXTS, references=REFERENCES)


def test_a_wrapped_reward_looks_like_the_reward():
    for wrapped in (Cached(BLEU(lowercase=True)), InWorkers(BLEU(lowercase=True))):
        bleu = BLEU(lowercase=True)
        assert wrapped.signature == bleu.signature
        assert (wrapped.__name__, wrapped.range, wrapped.columns) == ("bleu", (0.0, 1.0), ("references",))


def test_each_distinct_row_is_scored_once_and_unknown_ones_in_one_call():
    counting = Counting(slow_rewards.length)
    cached = Cached(counting)
    assert cached(completions=["a", "bb", "a"], prompts=["p", "p", "p"]) == [1, 2, 1]
    assert cached(completions=["ccc", "bb", "a", "ccc"], prompts=["p", "p", "q", "p"]) == [3, 2, 1, 3]
    assert counting.calls == [["a", "bb"], ["ccc", "a"]]


def test_none_is_cached_too():
    counting = Counting(slow_rewards.obedient)
    cached = Cached(counting)
    assert [cached(completions=["none"]) for _ in range(3)] == [[None]] * 3
    assert counting.calls == [["none"]]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a"], ["b"]),
        ("a", ["a"]),
        (1, "1"),
        (True, 1),
        (None, "None"),
        ({"a": 1}, {"a": 2}),
        ([["a", "b"]], [["a"], ["b"]]),
        (date(2020, 1, 1), date(2020, 1, 2)),
        (np.zeros(5000), np.append(np.zeros(4999), 1)),
    ],
)
def test_rows_that_differ_in_a_column_are_not_mixed_up(one, other):
    counting = Counting(slow_rewards.length)
    cached = Cached(counting)
    for value in (one, other, one, other):
        cached(completions=["a"], topic=[value])
    assert len(counting.calls) == 2


def test_columns_that_a_reward_does_not_read_are_no_difference():
    counting = Counting(slow_rewards.length)
    bleu = BLEU()
    bleu.scores = lambda texts, prompts, columns: counting(texts)
    cached = Cached(bleu)
    for index in range(3):
        assert cached(completions=["a"], references=["a"], index=[index]) == [1.0]
    assert counting.calls == [["a"]]


def test_chats_differ_by_their_messages():
    chats = [[{"role": "assistant", "content": text}] for text in ("a", "bb", "a")]
    counting = Counting(Length(2, unit="characters"))
    assert Cached(counting)(completions=chats) == [0.5, 1.0, 0.5]
    assert counting.calls == [chats[:2]]


def test_a_cache_forgets_what_was_used_longest_ago():
    counting = Counting(slow_rewards.length)
    cached = Cached(counting, size=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        cached(completions=[text])
    assert counting.calls == [["a"], ["b"], ["c"], ["b"]]
    assert cached(completions=["d", "e", "f", "gg"]) == [1, 1, 1, 2]  # more than it can remember


def test_a_cache_travels_without_what_it_remembers():
    cached = Cached(BLEU())
    empty = pickle.dumps(cached)
    cached(completions=TEXTS, references=REFERENCES)
    assert pickle.dumps(cached) == empty
    assert pickle.loads(empty)(completions=["a"], references=["a"]) == [1.0]


def test_parts_of_a_sum_can_be_cached_and_the_sum_itself():
    inputs = {"completions": TEXTS, "references": REFERENCES}
    plain = Weighted([(BLEU(), 1.0), (Length(2), 0.5)])
    assert Weighted([(Cached(BLEU()), 1.0), (Length(2), 0.5)])(**inputs) == plain(**inputs)
    assert Cached(plain)(**inputs, log_metric=None, trainer_state=object()) == plain(**inputs)


# async


def test_an_async_reward_is_run_to_its_end():
    assert call_reward(slow_rewards.asynchronous, completions=["a", "", "bb"]) == [1, None, 2]
    assert Cached(slow_rewards.asynchronous)(completions=["a", "", "bb"]) == [1, None, 2]


def test_an_async_reward_runs_where_a_loop_is_running():
    async def notebook():
        return Cached(slow_rewards.asynchronous)(completions=["a", "", "bb"])

    assert asyncio.run(notebook()) == [1, None, 2]


# InWorkers


def test_rewards_of_workers_come_in_order():
    inputs = {"completions": TEXTS, "references": REFERENCES, "log_metric": print, "trainer_state": object()}
    assert InWorkers(BLEU(), workers=2, chunk_size=1)(**inputs) == BLEU()(**inputs)


def test_an_async_reward_and_missing_values_pass_through_workers():
    assert InWorkers(slow_rewards.asynchronous, workers=1)(completions=["a", "", "bb"]) == [1, None, 2]


def test_workers_are_others_live_on_and_end_with_the_reward():
    reward = InWorkers(slow_rewards.process_id, workers=2, chunk_size=1)
    texts = ["a"] * 4
    first = {pid for _ in range(2) for pid in reward(completions=texts)}
    assert os.getpid() not in first
    assert len(first | set(reward(completions=texts))) <= 2
    del reward
    gc.collect()
    assert not any(exists(pid) for pid in first)


def test_an_empty_batch_starts_no_worker():
    reward = InWorkers(slow_rewards.length)
    assert reward(completions=[]) == []
    assert reward._pool.workers == []


def test_a_sleeper_is_cut_off_and_its_rows_named():
    reward = InWorkers(slow_rewards.obedient, workers=1, timeout=0.5, chunk_size=2)
    assert reward(completions=["a"]) == [1]
    (worker,) = reward._pool.workers
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"'obedient' failed on rows 2 to 3 of the batch: .*timeout of 0.5 s"):
        reward(completions=["a", "b", "sleep", "c"])
    assert 0.5 <= time.monotonic() - start < 10
    assert not exists(worker.process.pid)
    assert reward(completions=["bb", "a"]) == [2, 1]


def test_a_worker_is_killed_with_the_program_it_waits_for(tmp_path):
    reward = InWorkers(slow_rewards.starts_a_program, workers=1, timeout=1)
    with pytest.raises(RuntimeError, match="timeout"):
        reward(completions=["a"], folder=[str(tmp_path)])
    pid = (tmp_path / "program").read_text()
    wait_until(lambda: not alive(pid))


def test_a_death_of_a_worker_is_an_error_and_no_hang():
    reward = InWorkers(slow_rewards.obedient, workers=2, chunk_size=1)
    with pytest.raises(RuntimeError, match="row 1 of the batch: its process ended, with exit code 7"):
        reward(completions=["a", "die", "b"])
    assert reward(completions=["bb", "a"]) == [2, 1]


def test_a_worker_that_died_between_two_calls_is_replaced():
    reward = InWorkers(slow_rewards.length, workers=1)
    assert reward(completions=["a"]) == [1]
    (worker,) = reward._pool.workers
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.join(60)  # a zombie may have threads that still end
    assert reward(completions=["bb"]) == [2]


def test_an_error_in_a_worker_comes_with_its_traceback():
    reward = InWorkers(slow_rewards.obedient, workers=1)
    with pytest.raises(RuntimeError, match="row 0 of the batch: it raised KeyError: 'no such thing'") as raised:
        reward(completions=["raise"])
    assert "slow_rewards.py" in "".join(raised.value.__notes__)


def test_a_failed_chunk_is_tried_again(tmp_path):
    reward = InWorkers(slow_rewards.fails_twice, workers=2, retries=2)
    assert reward.columns == ("folder",)
    assert reward(completions=["a"], folder=[str(tmp_path)]) == [3]


def test_no_more_often_than_configured(tmp_path):
    reward = InWorkers(slow_rewards.fails_twice, workers=1, retries=1)
    with pytest.raises(RuntimeError, match=r"\(attempts: 2\): it raised ConnectionError: try again"):
        reward(completions=["a"], folder=[str(tmp_path)])


def test_failures_may_count_as_none():
    reward = InWorkers(slow_rewards.obedient, workers=2, chunk_size=1, timeout=0.5, on_failure="none")
    with pytest.warns(RuntimeWarning) as warned:
        assert reward(completions=["a", "raise", "sleep", "die", "bb"]) == [1, None, None, None, 2]
    assert [str(warning.message).split(". ")[-1] for warning in warned] == [
        f"{count} rows went without it so far." for count in (1, 2, 3)
    ]
    with pytest.warns(RuntimeWarning, match="4 rows went without"):
        assert reward(completions=["raise"]) == [None]
    assert reward.failed_rows == 4


def test_where_nothing_fails_nothing_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert InWorkers(slow_rewards.length, workers=1, on_failure="none")(completions=["a"]) == [1]


def test_a_reward_that_a_worker_cannot_load_is_an_error():
    reward = InWorkers(slow_rewards.LoadsNowhere(), workers=1, on_failure="none")
    with pytest.raises(RuntimeError, match=r"'loads_nowhere' could not be loaded .*raised OSError: no weights here"):
        reward(completions=["a"])


def test_a_reward_of_ones_own_file_goes_to_workers(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("def shout(completions, **columns):\n    return [float(t.isupper()) for t in completions]\n")
    reward = InWorkers(make_reward(f"{path}:shout"), workers=1)
    assert reward(completions=["A", "b"]) == [1.0, 0.0]


def test_workers_can_be_cached_and_travel():
    reward = pickle.loads(pickle.dumps(Cached(InWorkers(BLEU(), workers=1))))
    assert reward(completions=["a", "a"], references=["a", "a"]) == [1.0, 1.0]


SCRIPT = """
import sys, time
import slow_rewards
from lmrl.rewards import InWorkers

if __name__ == "__main__":
    reward = InWorkers(slow_rewards.obedient, workers=2, chunk_size=1)
    reward(completions=["a", "b"])
    print(*[worker.process.pid for worker in reward._pool.workers], flush=True)
    if "hang" in sys.argv:
        reward(completions=["sleep"] * 2)
"""


@pytest.mark.parametrize("sent", [None, signal.SIGINT, signal.SIGKILL])
def test_a_program_leaves_no_worker_behind(sent, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), *(["hang"] if sent else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as program:
        pids = program.stdout.readline().split()
        assert len(pids) == 2
        if sent:
            time.sleep(0.2)
            assert all(map(alive, pids))
            program.send_signal(sent)
        program.wait(60)
    wait_until(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cached("bleu"), "`reward` must be callable, got 'bleu'"),
        (lambda: Cached(BLEU(), size=0), "`size`.*got 0"),
        (lambda: Cached(lambda completions, trainer_state, **_: []), r"with \['trainer_state'\]"),
        (lambda: Cached(Stateful()), "must have no state, got 'Stateful'"),
        (lambda: Cached(Normalized(BLEU(), by="group")), "must not be normalized, got 'bleu_normalized', which would"),
        (lambda: Retried(Length(3) + Normalized(BLEU())), "must not be normalized, got 'length_plus_bleu_normalized'"),
        (lambda: InWorkers(lambda completions, **_: []), "must be picklable, got .*at the top of a module"),
        (lambda: InWorkers(BLEU(), workers=0), "`workers`"),
        (lambda: InWorkers(BLEU(), chunk_size=0), "`chunk_size`"),
        (lambda: InWorkers(BLEU(), timeout=0), "`timeout`.*got 0"),
        (lambda: InWorkers(BLEU(), timeout=float("inf")), "`timeout` must be finite, got inf"),
        (lambda: InWorkers(BLEU(), retries=-1), "`retries`.*got -1"),
        (lambda: InWorkers(BLEU(), on_failure="ignore"), "`on_failure`.*got 'ignore'"),
    ],
)
def test_what_cannot_be_wrapped_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_missing_column_is_named():
    for wrapped in (Cached(BLEU()), Cached(slow_rewards.fails_twice)):
        with pytest.raises(ValueError, match=f"{wrapped.__name__!r} needs the column {wrapped.columns[0]!r}"):
            wrapped(completions=["a"])


def test_a_reward_that_loses_rows_is_named():
    def short(completions, **columns):
        return [1.0]

    with pytest.raises(ValueError, match=r"'short' must return .* got \[1.0\] for a batch of 2"):
        Cached(short)(completions=["a", "b"])
