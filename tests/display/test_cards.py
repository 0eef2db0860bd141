"""What objects show in a notebook: everything escaped, nothing loaded, the numbers of the objects."""

import re
import xml.etree.ElementTree as ET
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tiny import tiny_tokenizer

from lmrl.comparison import best_of_samples, win_rate, with_win_rates
from lmrl.display import card, training_curves
from lmrl.display.cards import purpose, reward_lines
from lmrl.evaluation import (
    Completion,
    Corpus,
    Decoding,
    Evaluation,
    Evaluator,
    SideBySide,
    compare,
    compare_all,
    compare_evaluations,
    measure_completions,
    read_outputs,
    report,
    score_completions,
    write_page,
)
from lmrl.evaluation.scores import mean_score, per_prompt
from lmrl.rewards import BLEU, Length, reward_name

EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
VOID = ("img", "br", "meta")


class Page(HTMLParser):
    """The elements of a page, those that are still open, and the text outside of styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes |= dict(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def parsed(html: str) -> Page:
    """Returns the page of an object, once it is known to be complete, to run nothing and to load nothing."""
    page = Page(html)
    assert page.open == []
    assert not {"script", "img", "iframe", "link", "object"} & set(page.elements)
    assert not [name for name in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert "url(" not in html and "@import" not in html
    return page


def table(html: str) -> list[list[str]]:
    """Returns the texts of the cells of all tables."""
    rows = re.findall(r"<tr>(.*?)</tr>", html, flags=re.DOTALL)
    return [[Page(cell).text for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]


def system(values: list[float], text: str = "a text", samples: int = 1) -> Evaluation:
    """Returns an evaluation with this reward of each completion."""
    rows = len(values) // samples
    texts = [Completion(place // samples, place % samples, text, 3, True) for place in range(len(values))]
    score = per_prompt(mean_score("reward/r", "r", values, True), samples)
    cost = mean_score("ter", "t", [10 * value for value in values[:rows]], False)
    decoding = {"max_new_tokens": 8, "do_sample": samples > 1, "num_samples": samples, "temperature": 0.5}
    return Evaluation(texts, {"reward/r": score, "ter": cost}, decoding, [str(row) for row in range(rows)])


LOW, HIGH = system([0.1] * 12), system([0.3] * 12, text="a longer text")


def test_every_text_of_a_card_is_escaped() -> None:
    samples = [{"prompt": EVIL, "texts": [(EVIL, [(EVIL, True), (EVIL, False)], EVIL)]}]
    lines = [[EVIL, EVIL], [EVIL, EVIL], [EVIL]]
    page = parsed(card(EVIL, lead=EVIL, facts={EVIL: EVIL}, tables={EVIL: lines}, samples=samples))
    assert page.text.count(EVIL) == 2 + 2 + 6 + 5


def test_a_script_in_a_completion_or_a_label_does_not_run() -> None:
    evil = system([0.3] * 12, text=EVIL)
    assert EVIL in parsed(evil._repr_html_()).text
    assert EVIL in parsed(compare_evaluations({"a": LOW, EVIL: evil})._repr_html_()).text
    found = SideBySide({"a": LOW, "b": evil}, [{"prompt": EVIL}] * 12, n=4)
    assert parsed(found._repr_html_()).text.count("alert(1)") == 8


def test_an_evaluation_shows_its_scores_with_intervals_and_its_tables() -> None:
    made = with_win_rates({"low": LOW, "high": HIGH}, ["reward/r"])["high"]
    html = made._repr_html_()
    assert "12 rows · greedy decoding, at most 8 tokens" in parsed(html).text
    assert table(html)[:3] == [
        ["metric", "value [95 % CI]"],
        ["reward/r ↑", "0.3000 [0.3000, 0.3000]"],
        ["ter ↓", "3.00 [3.00, 3.00]"],
    ]
    assert table(html)[-1][:4] == ["reward/r", "low", "▲ 1.00 [1.00, 1.00]", "<0.001"]
    assert "1 sampled at temperature 0.5" not in html
    assert "2 sampled at temperature 0.5" in system([0.1] * 4, samples=2)._repr_html_()


def test_a_comparison_marks_what_got_better_and_what_got_worse_by_the_direction_of_the_metric() -> None:
    found = compare_evaluations({"low": LOW, "high": HIGH})
    lines = {line[0].split()[0]: line for line in table(found._repr_html_())}
    better = "▲ +0.2000 [+0.2000, +0.2000]"
    assert lines["reward/r"] == ["reward/r ↑", "0.1000 [0.1000, 0.1000]", "0.3000 [0.3000, 0.3000]", better, "0.001"]
    assert lines["ter"][3] == "▼ +2.00 [+2.00, +2.00]"
    assert "corrected for 2 comparisons (Holm)" in found._repr_html_()
    equal = compare_all({"a": LOW.scores, "b": LOW.scores}, primary=["ter"])
    assert [line[-2:] for line in table(equal._repr_html_())[1:]] == [
        ["+0.00 [+0.00, +0.00]", "1.000"],
        ["+0.00 [+0.00, +0.00]", ""],
    ]
    assert "▲ better" in equal._repr_html_() and "(exploratory)" in equal._repr_html_()
    assert "+0.2000 [+0.2000, +0.2000]*" in parsed(found["high"]["reward/r"]._repr_html_()).text


def test_win_rates_and_several_samples_show_their_tables() -> None:
    won = win_rate(LOW.scores["reward/r"], HIGH.scores["reward/r"])
    assert table(won._repr_html_())[1] == ["reward/r", "▲ 1.00 [1.00, 1.00]", "<0.001", "12", "0", "0", "12"]
    lost = win_rate(HIGH.scores["reward/r"], LOW.scores["reward/r"])
    assert table(lost._repr_html_())[1][1] == "▼ 0.00 [0.00, 0.00]"
    several = best_of_samples(system([0.0, 1.0] * 4, samples=2).scores["reward/r"])
    assert several == list(several)
    assert [line[:3] for line in table(several._repr_html_())] == [
        ["by", "k", "best of k [95 % CI]"],
        ["reward/r", "1", "0.5000 [0.5000, 0.5000]"],
        ["reward/r", "2", "1.00 [1.00, 1.00]"],
    ]
    assert parsed(best_of_samples(LOW.scores["reward/r"])._repr_html_())


def test_rewards_of_all_kinds_show_name_weight_range_and_what_they_want() -> None:
    def polite(completions: list[str], **columns: Any) -> list[float]:
        """
        Returns 1 where a text has the word
        please. It is slow.
        """
        return [0.0 for _ in completions]

    lines = reward_lines([polite, Length(8), lambda completions, **_: [0.0]], [1.0, 0.25, 1.0])
    assert lines[1] == ["polite", "1", "any", "1 where a text has the word please"]
    assert lines[2][:3] == ["length", "0.25", "0 to 1"] and lines[2][3]
    assert lines[3] == ["<lambda>", "1", "any", ""]
    wishes = partial(polite, extra=1)
    assert reward_lines([wishes]) == [["reward", "range", "what it wants"], ["polite", *lines[1][2:]]]
    assert reward_name(wishes) == "polite"  # as in the log of a trainer
    mixed = 0.7 * BLEU() + polite
    assert [line[0] for line in table(mixed._repr_html_())] == ["reward", mixed.__name__, "bleu", "polite"]
    assert mixed.signature in parsed(mixed._repr_html_()).text
    assert purpose(BLEU()).startswith("the sentence BLEU of each completion")


def test_a_score_and_an_evaluator_show_what_they_measure() -> None:
    score = parsed(LOW.scores["ter"]._repr_html_()).text
    assert "".join(score.split()) == "ter1.00↓signaturetrows12"
    rows = Dataset.from_list([{"prompt": "a", "references": ["b"]}] * 3)
    rewards = [BLEU()]
    evaluator = Evaluator(tiny_tokenizer(), rows, Decoding(8), reward_funcs=rewards, metrics=["bleu"], subset_size=2)
    shown = parsed(evaluator._repr_html_()).text
    assert "3 rows, 2 of them during training" in shown and "greedy decoding, at most 8 tokens" in shown
    assert "bleu, reward/bleu" in shown
    assert table(evaluator._repr_html_())[1][:2] == ["bleu", "0 to 1"]


def test_what_a_terminal_shows_is_one_line() -> None:
    corpus = Corpus(["a b c d"] * 3, [["a b c d"]] * 3, rows=[0, 1, 2], lengths=[5] * 3, finished=[True] * 3)
    shown = [
        LOW,
        HIGH.scores["ter"],
        score_completions(corpus, ["bleu"])["bleu"],
        compare(LOW.scores["ter"], HIGH.scores["ter"]),
        compare_evaluations({"low": LOW, "high": HIGH}),
        SideBySide({"low": LOW, "high": HIGH}, [{"prompt": "p"}] * 12),
        training_curves([{"step": 1, "reward": 0.5}]),
    ]
    assert [text for text in map(repr, shown) if "\n" in text or len(text) > 200] == []
    assert repr(LOW) == "Evaluation(12 completions: reward/r 0.1000, ter 1.00)"
    assert repr(shown[4]) == (
        "Comparisons(high: reward/r +0.2000 [+0.2000, +0.2000]*, high: ter +2.00 [+2.00, +2.00]*)"
    )


def test_texts_stand_side_by_side_with_the_words_that_differ_marked() -> None:
    html = SideBySide({"low": LOW, "high": HIGH}, [{"prompt": "a prompt"}] * 12, n=1)._repr_html_()
    assert "<mark>longer</mark>" in html
    assert "r 0.3000 (+0.2000)" in parsed(html).text
    assert "1 of 12 rows" in parsed(html).text


def test_curves_are_one_drawing_of_a_chart_for_each_logged_value() -> None:
    logs = {
        "a": [{"step": step, "reward": step / 10, "entropy": 1.0} for step in (1, 2, 3)],
        "b": [{"step": 1, "reward": 0.2}],
    }
    picture = training_curves(logs, columns=2)
    root = ET.fromstring(picture._repr_svg_())
    charts = list(root)
    assert [chart.get("x") for chart in charts] == ["0", "440"]
    assert (root.get("width"), root.get("height")) == ("880", "260")
    titles = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text") if text.get("class") == "name"]
    assert titles == ["Reward", "Entropy (nats per token)"]
    assert ET.fromstring(training_curves(logs, columns=1).svg).get("height") == "520"
    with pytest.raises(ValueError, match=r"^`log` must have numbers of a step, got 0 lines\. Train first\.$"):
        training_curves([])
    with pytest.raises(ValueError, match=r"^`columns` must be at least 1, got 0\.$"):
        training_curves(logs, columns=0)


def test_a_comparison_of_one_checkpoint_or_none_shows_that_there_is_nothing_to_compare(tmp_path: Path) -> None:
    """Of none, as [`report`] returns it where there are logs alone."""
    none = report({}, [], tmp_path, logs={"sft": [{"step": 1, "loss": 2.0}]})
    for found in (none, compare_evaluations({"only": LOW})):
        shown = parsed(found._repr_html_()).text
        assert " ".join(shown.split()) == "Comparisons There is no checkpoint beside the baseline."


def test_one_row_is_not_several() -> None:
    one = system([0.5, 0.25], samples=2)
    assert "1 row · 2 sampled" in parsed(one._repr_html_()).text
    assert "1 prompts" not in parsed(best_of_samples(one.scores["reward/r"])._repr_html_()).text
    assert ", 1 row" in parsed(compare(one.scores["ter"], one.scores["ter"])._repr_html_()).text


def test_lengths_in_words_are_shown_as_words(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one two three\n")
    rows = [{"prompt": "p"}]
    read = measure_completions(read_outputs(tmp_path / "texts.txt", rows), rows, length_unit="words")
    assert "3 words" in parsed(read._repr_html_()).text
    write_page(tmp_path / "page.html", {"texts": read}, rows)
    page = (tmp_path / "page.html").read_text()
    assert "3 words</p>" in page and ">words</text>" in page and "tokens" not in re.sub("<style>.*?</style>", "", page)
