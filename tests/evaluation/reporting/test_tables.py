"""Tables of scores and completions as text."""

import math

import pytest

from lmrl.evaluation import (
    Completion,
    Evaluation,
    Score,
    as_text,
    compare_all,
    samples_table,
    scores_table,
    show,
)
from lmrl.evaluation.scores import mean_score


def scores(rows, length=5.0):
    return {
        "bleu": mean_score("bleu", "tok:13a", rows, True),
        "length": Score("length", length, "tokens", None, None),
    }


def line_of(metric, table):
    return next(line for line in as_text(table).splitlines() if metric in line)


def test_no_checkpoints_are_refused():
    with pytest.raises(ValueError, match=r"^`columns` must have at least 1 checkpoint, got 0\."):
        scores_table({})


def test_one_checkpoint_is_a_column_of_values_with_intervals():
    lines = as_text(scores_table({"sft": scores([70.0, 72.0])})).splitlines()
    assert lines[0].split() == ["metric", "sft", "[95%", "CI]"]
    assert [line.split() for line in lines[2:]] == [["bleu", "71.00", "[70.00,", "72.00]"], ["length", "5.00"]]


def test_a_second_checkpoint_has_its_difference_with_an_interval_and_a_p_value():
    before, after = [70.0, 72.0, 74.0, 76.0], [72.0, 74.0, 76.0, 78.0]
    table = scores_table({"sft": scores(before), "rl": scores(after, 0.0123)})
    assert "rl - sft [95% CI]   p (Holm)" in as_text(table).splitlines()[0]
    assert "+2.00 [+2.00, +2.00] " in line_of("bleu", table)
    # Four rows can be swapped in 16 ways, two of which give a difference as large: p is 1/8, up to the draws.
    assert float(line_of("bleu", table).split()[-1]) == pytest.approx(1 / 8, abs=0.02)
    assert line_of("length", table).split() == ["length", "5.00", "0.0123", "-4.99"]


def test_a_star_marks_a_corrected_p_value_below_5_percent():
    table = scores_table({"sft": scores([70.0] * 8), "rl": scores([72.0] * 8)})
    # Eight rows can be swapped in 256 ways, two of which give a difference as large.
    assert float(line_of("bleu", table).split()[-1]) == pytest.approx(2 / 256, abs=0.005)
    assert "+2.00 [+2.00, +2.00]*" in line_of("bleu", table)
    assert "* p < 0.05 by approximate randomization, corrected for 1 comparison (Holm)" in as_text(table)


def test_a_difference_with_a_corrected_p_value_of_1_has_no_star():
    names = [f"metric{index:02}" for index in range(12)]
    before = {name: mean_score(name, "s", [0.0] * 4, True) for name in names}
    after = {name: mean_score(name, "s", [1.0] * 4, True) for name in names}
    line = line_of("metric00", scores_table({"sft": before, "rl": after}))
    assert line.split()[-4:] == ["+1.00", "[+1.00,", "+1.00]", "1.000"]  # the interval excludes 0
    table = scores_table({"sft": scores([0.0, 0.0, 0.0, 0.0]), "rl": scores([1.0, -1.0, 1.0, -1.0])})
    assert "*" not in line_of("bleu", table)


def test_several_checkpoints_have_p_values_and_no_intervals_of_values():
    rows = [1.0, 2.0, 3.0] * 3
    columns = {"a": scores(rows), "b": scores([row + 1 for row in rows]), "c": scores(rows)}
    line = line_of("bleu", scores_table(columns)).split()
    values = ["bleu", "2.00", "3.00", "2.00"]
    assert line == [*values, "+1.00", "[+1.00,", "+1.00]*", "0.006", "+0.00", "[+0.00,", "+0.00]", "1.000"]


def test_p_values_are_corrected_for_the_number_of_comparisons():
    before = {name: mean_score(name, "s", [0.0, 0.0, 0.0, 0.0], True) for name in "ab"}
    after = {name: mean_score(name, "s", [1.0, 1.0, 1.0, 1.0], True) for name in "ab"}
    (found,) = compare_all({"before": before, "after": after}).values()
    assert found["a"].p_corrected == found["b"].p_corrected == pytest.approx(2 / 8, abs=0.04)  # Holm: twice 1/8
    (found,) = compare_all({"before": {"a": before["a"]}, "after": {"a": after["a"]}}).values()
    assert found["a"].p_corrected == pytest.approx(1 / 8, abs=0.02)


def test_rows_without_a_score_are_left_out_of_the_difference():
    table = scores_table({"a": scores([1.0, math.nan, 2.0, 3.0]), "b": scores([4.0, 9.0, math.nan, 6.0])})
    assert "+3.00 [+3.00, +3.00]" in as_text(table)
    table = scores_table({"a": scores([math.nan]), "b": scores([4.0])})
    assert line_of("bleu", table).split() == ["bleu", "n/a", "4.00", "n/a"]


def test_a_score_from_a_file_without_statistics_has_a_difference_and_no_interval():
    old = {"bleu": Score("bleu", 70.0, "tok:13a", [70.0, 70.0], True)}
    table = scores_table({"old": old, "new": scores([71.0, 73.0])})
    assert line_of("bleu", table).split() == ["bleu", "70.00", "72.00", "[71.00,", "73.00]", "+2.00"]


def test_a_metric_that_one_checkpoint_lacks_has_an_empty_cell():
    table = scores_table({"a": {}, "b": scores([4.0])})
    assert line_of("bleu", table).split() == ["bleu", "4.00"]


def test_checkpoints_with_different_numbers_of_rows_are_refused():
    with pytest.raises(ValueError, match="must have the same rows, got 1 and 2 of 'bleu'"):
        scores_table({"a": scores([1.0]), "b": scores([1.0, 2.0])})


def completed(texts, **rewards):
    scores = {f"reward/{name}": mean_score(f"reward/{name}", "s", values, True) for name, values in rewards.items()}
    return Evaluation([Completion(row, 0, text, 3, True) for row, text in enumerate(texts)], scores, {})


def test_brackets_in_texts_are_not_markup():
    prompts = ["name[The Eagle], food[red]", [{"role": "user", "content": "near[Burger King]"}]]
    references = [["One [bold]."], ["Two."]]
    rows = [{"prompt": p, "references": r} for p, r in zip(prompts, references, strict=True)]
    text = as_text(samples_table({"sft": completed([" one", "two"]), "rl": completed(["x [/y]", "z"])}, rows))
    for expected in ("name[The Eagle], food[red]", "user: near[Burger King]", "One [bold].", "x [/y]"):
        assert expected in text
    assert "[sft]" in as_text(scores_table({"[sft]": scores([1.0])}))


def test_samples_show_rewards_and_the_first_rows_only():
    rows = [{"prompt": "p0"}, {"prompt": "p1"}]
    table = samples_table({"sft": completed(["t0", "t1"], bleu=[0.5, 1.0], length=[0.25, 0.0])}, rows, n=1)
    lines = [line.split() for line in as_text(table).splitlines()]
    assert ["sft", "t0", "bleu", "0.50"] in lines and ["length", "0.25"] in lines and "reward" in lines[0]
    assert not any("p1" in line or "reference" in line for line in lines)
    without_rewards = as_text(samples_table({"sft": completed(["t0"])}, rows[:1], n=9))
    assert ["sft", "t0"] in [line.split() for line in without_rewards.splitlines()] and "reward" not in without_rewards


def test_control_characters_of_a_text_do_not_reach_the_terminal():
    rows = [{"prompt": "p\x1b[2J\x07q", "references": ["r\x9b31m\rs"]}]
    shown = as_text(samples_table({"sft": completed(["t\x1b]0;title\x07\nu"])}, rows))
    assert not any((ord(character) < 32 and character != "\n") or 127 <= ord(character) < 160 for character in shown)
    assert "p[2Jq" in shown and "r31ms" in shown and "t]0;title" in shown


def test_the_first_completion_of_each_prompt_is_shown():
    evaluation = completed(["first", "other"])
    evaluation.completions.insert(1, Completion(0, 1, "second", 3, True))
    text = as_text(samples_table({"sft": evaluation}, [{"prompt": "p0"}, {"prompt": "p1"}]))
    assert "first" in text and "other" in text and "second" not in text


def test_long_texts_are_wrapped_to_the_width(capsys):
    table = samples_table({"sft": completed(["text " * 100])}, [{"prompt": "word " * 100}])
    assert max(map(len, as_text(table, width=60).splitlines())) <= 60
    show(table)  # pytest's stdout is no terminal
    out = capsys.readouterr().out
    assert out.count("word") == 100 and "\x1b" not in out and max(map(len, out.splitlines())) <= 120


def test_a_reward_that_does_not_apply_to_a_row_is_not_available():
    text = as_text(samples_table({"sft": completed(["t0"], bleu=[None], length=[0.5])}, [{"prompt": "p0"}]))
    assert ["sft", "t0", "bleu", "n/a"] in [line.split() for line in text.splitlines()]
