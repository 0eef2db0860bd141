"""Win rates and the worth of samples as tables: the correction, notes, JSON, the page, the card, the terminal."""

import json
import math
from pathlib import Path

import pytest

from lmrl.comparison import printed_tables, sign_test, with_samples, with_win_rates
from lmrl.evaluation import Completion, Evaluation, as_text, holm, read_json, report, write_card, write_json
from lmrl.evaluation.scores import mean_score, per_prompt
from lmrl.rewards import TokenF1

NAMES = ["reward/r"]


def system(values: list[float], samples: int = 1, name: str = "reward/r") -> Evaluation:
    """Returns an evaluation with these scores, whose texts are their numbers."""
    rows = len(values) // samples
    texts = [Completion(place // samples, place % samples, f"t {v}", 3, True) for place, v in enumerate(values)]
    score = per_prompt(mean_score(name, "r", values, True), samples)
    decoding = {"max_new_tokens": 8, "num_samples": samples}
    return Evaluation(texts, {name: score}, decoding, [str(row) for row in range(rows)])


LOW, MIDDLE, HIGH = system([0.1] * 12), system([0.1] * 8 + [0.2] * 4), system([0.3] * 12)


def win_lines(evaluation: Evaluation) -> list[list[str]]:
    return [line for line in evaluation.tables["Win rate"][1:] if len(line) > 1]


def test_each_system_is_compared_with_the_first_and_all_pvalues_are_corrected_together() -> None:
    made = with_win_rates({"low": LOW, "middle": MIDDLE, "high": HIGH}, NAMES)
    p_values = [sign_test(4, 0), sign_test(12, 0)]
    corrected = holm(p_values)
    assert "Win rate" not in made["low"].tables
    (middle,) = made["middle"].numbers["Win rate"]
    (high,) = made["high"].numbers["Win rate"]
    assert (middle["over"], middle["wins"], middle["losses"], middle["ties"]) == ("low", 4, 0, 8)
    assert [middle["p_value"], high["p_value"]] == p_values
    assert [middle["p_corrected"], high["p_corrected"]] == corrected == [0.125, 2 * 2 / 2**12]
    assert win_lines(made["high"]) == [["reward/r", "low", "1.00 [1.00, 1.00]*", "<0.001", "12", "0", "0", "12"]]
    assert win_lines(made["middle"])[0][2:4] == ["0.6667 [0.5417, 0.7917]", "0.125"]


def test_with_all_pairs_each_is_compared_with_those_before_it() -> None:
    made = with_win_rates({"low": LOW, "middle": MIDDLE, "high": HIGH}, NAMES, all_pairs=True)
    assert [line[1] for line in win_lines(made["high"])] == ["low", "middle"]
    corrected = holm([sign_test(4, 0), sign_test(12, 0), sign_test(12, 0)])
    assert [found["p_corrected"] for found in made["high"].numbers["Win rate"]] == corrected[1:]
    assert "corrected for 3 win rates (Holm)" in made["middle"].tables["Win rate"][-1][0]


def test_equal_systems_and_a_constant_score_have_no_star_and_a_note() -> None:
    made = with_win_rates({"a": MIDDLE, "b": MIDDLE}, NAMES)
    assert win_lines(made["b"]) == [["reward/r", "a", "0.5000 [0.5000, 0.5000]", "1.000", "0", "0", "12", "12"]]
    assert made["b"].tables["Win rate"][-1] == ["All ties: reward/r separates b from a on no prompt."]
    made = with_win_rates({"a": LOW, "b": LOW}, NAMES)
    note = "All ties: reward/r gave every text the same value, so it separates nothing."
    assert made["b"].tables["Win rate"][-1] == [note]


def test_without_names_nothing_is_added_and_a_score_that_a_system_lacks_is_left_out() -> None:
    assert with_win_rates({"a": LOW, "b": HIGH}, []) == {"a": LOW, "b": HIGH}
    other = system([0.1] * 12, name="reward/other")
    assert with_win_rates({"a": LOW, "b": other}, ["reward/r", "reward/other"])["b"].numbers == {}


def test_rows_in_another_order_are_matched_with_their_samples() -> None:
    first = system([0.1, 0.2, 0.5, 0.6], samples=2)
    other = system([0.5, 0.6, 0.1, 0.2], samples=2)
    other.row_ids[:] = ["1", "0"]
    (found,) = with_win_rates({"a": first, "b": other}, NAMES)["b"].numbers["Win rate"]
    assert (found["ties"], found["rate"]["value"]) == (2, 0.5)


def test_the_table_over_samples_has_every_reward_and_a_threshold_for_rewards_alone() -> None:
    evaluation = system([0.25, 0.75, 0.5, 0.5], samples=2)
    bleu = system([25.0, 75.0, 50.0, 50.0], samples=2, name="bleu").scores
    evaluation = Evaluation(evaluation.completions, {**bleu, **evaluation.scores}, {}, evaluation.row_ids)
    made = with_samples({"a": evaluation, "one": LOW}, ["bleu"], TokenF1(), threshold=0.75)
    assert made["one"] == LOW
    header, *lines = made["a"].tables["Best of k samples"]
    assert header == ["by", "k", "best of k", "worst of k", "MBR of k (token_f1)", "pass@k"]
    assert [line[:4] for line in lines[:2]] == [
        ["reward/r", "1", "0.5000 [0.5000, 0.5000]", "0.5000"],
        ["reward/r", "2", "0.6250 [0.5000, 0.7500]", "0.3750"],
    ]
    assert [line[5] for line in lines[:4]] == ["0.2500 [0.00, 0.5000]", "0.50 [0.00, 1.00]", "", ""]
    assert "pass@k: one of k at least has 0.75 or better" in lines[-1][0]
    without = with_samples({"a": evaluation}, [], TokenF1())["a"]
    assert [line[0] for line in without.tables["Best of k samples"][1:-1]] == ["reward/r", "reward/r"]
    by_bleu = with_samples({"a": Evaluation(evaluation.completions, bleu, {}, evaluation.row_ids)}, [], TokenF1())
    assert [line[0] for line in by_bleu["a"].tables["Best of k samples"][1:-1]] == ["bleu", "bleu"]


def test_a_score_that_no_prompt_has_of_all_samples_is_counted_with_0_prompts() -> None:
    none = system([math.nan, 0.5] * 2, samples=2)
    note = with_samples({"a": none}, [], TokenF1())["a"].tables["Best of k samples"][-1][0]
    assert "intervals over 0 prompts;" in note
    both = Evaluation(none.completions, {**none.scores, **system([0.1] * 4, 2, "reward/s").scores}, {})
    *lines, (note,) = with_samples({"a": both}, [], TokenF1())["a"].tables["Best of k samples"]
    assert [line[0] for line in lines] == ["by", "reward/s", "reward/s"]
    assert "over the prompts of which every sample has a score (reward/r: 0, reward/s: 2);" in note


def test_json_page_card_and_terminal_have_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = system([0.1, 0.2] * 12, samples=2)
    after = system([0.1, 0.9] * 12, samples=2)
    made = with_win_rates({"before": before, "after": after}, NAMES)
    made = with_samples(made, NAMES, TokenF1())
    rows = [{"prompt": f"p {row}"} for row in range(12)]
    report(made, rows, tmp_path, samples=0, below=printed_tables(made))
    shown = capsys.readouterr().out
    assert shown.index("p (Holm)") < shown.index("Win rate: after") < shown.index("Best of k samples: before")
    assert "0.6250 [0.6250, 0.6250]*" in shown
    data = json.loads((tmp_path / "after.json").read_text())
    assert data["numbers"]["Win rate"][0]["rate"] == {"value": 0.625, "low": 0.625, "high": 0.625}
    assert data["numbers"]["Best of k samples"][1]["best"]["value"] == pytest.approx(0.9)
    assert data["scores"]["reward/r"]["sample_scores"] == [[0.1, 0.9]] * 12
    page = (tmp_path / "report.html").read_text()
    assert '<span class="good">0.6250</span><small>[0.6250, 0.6250]</small>' in page.replace("\n", "")
    assert "A triangle marks p below 0.05." in page and "got most wrong" not in page
    card = write_card(
        tmp_path,
        made,
        rows,
        algorithm="PPO",
        citation=None,
        settings={},
        logs={"after": []},
        config={},
        rewarded=["r"],
        start="a",
        weights="b",
    )
    assert r"| reward/r | before | 0.6250 \[0.6250, 0.6250\]\* | \<0.001 | 12 | 0 | 0 | 12 |" in card
    assert "Of each prompt the share of the pairs of samples" in card


def test_json_keeps_what_it_has_not_and_old_files_are_read(tmp_path: Path) -> None:
    evaluation = with_samples({"a": system([0.1, float("nan"), 0.3, 0.4], samples=2)}, [], TokenF1())["a"]
    write_json(tmp_path / "a.json", evaluation)
    read = read_json(tmp_path / "a.json")
    assert read.numbers == evaluation.numbers and read.tables == evaluation.tables
    assert str(read.scores) == str(evaluation.scores)  # NaN among the samples
    data = json.loads((tmp_path / "a.json").read_text())
    del data["numbers"], data["scores"]["reward/r"]["sample_scores"]
    (tmp_path / "old.json").write_text(json.dumps(data))
    old = read_json(tmp_path / "old.json")
    assert old.numbers == {} and old.scores["reward/r"].sample_scores is None


def test_the_table_for_the_terminal_fits_120_columns() -> None:
    evaluation = system([0.123, 0.456, 0.0, 1.0] * 4, samples=4, name="reward/a_rather_long")
    made = with_samples({"a": evaluation}, [], TokenF1(), threshold=0.4)
    (table,) = printed_tables(made)
    lines = as_text(table).splitlines()
    assert lines[0] == "Best of k samples: a" and max(map(len, lines)) <= 120
    assert sum("reward/a_rather_long" in line for line in lines) == 3


def test_of_an_old_file_without_row_ids_one_text_of_a_prompt_is_one_text() -> None:
    old, other = system([0.1] * 12), system([0.3] * 12)
    old.row_ids.clear()
    other.row_ids.clear()
    lines = with_win_rates({"a": old, "b": other}, NAMES)["b"].tables["Win rate"]
    notes = [line[0] for line in lines if len(line) == 1]
    assert notes[0].startswith("win rate = (wins + ties / 2) / prompts.")


def test_a_score_that_no_text_has_is_not_counted_among_the_tests() -> None:
    values = {"before": [0.1, 0.2], "after": [0.3, 0.4]}
    evaluations = {}
    for label, row in values.items():
        scores = {"reward/r": mean_score("reward/r", "r", row, True), "none": mean_score("none", "", [None] * 2, True)}
        evaluations[label] = Evaluation([Completion(i, 0, "a", 1, True) for i in range(2)], scores, {})
    made = with_win_rates(evaluations, ["reward/r", "none"])
    assert "corrected for 1 win rate (Holm)" in made["after"].tables["Win rate"][-1][0]
