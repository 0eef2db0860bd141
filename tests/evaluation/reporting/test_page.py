"""The report in the browser: its content, its safety, its scripts."""

import json
import math
import random
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from markupsafe import escape

from lmrl.evaluation import Completion, Evaluation, Score, report, write_page
from lmrl.evaluation.scores import mean_score

EVIL = '</script><script>alert(1)</script><img src=x onerror="alert(1)"> & \'"'
ALPHABET = ("ape", "bee", "cat", "dog", "elk", "fox", "gnu", "hen")


class Texts(HTMLParser):
    """Tags with their attributes, and the text of all but styles and scripts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self._inside = [], "", ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("style", "script"):
            self.text += data


def rows_of(count):
    return [{"prompt": f"prompt {row}", "references": [f"gold {row}", "silver"]} for row in range(count)]


def evaluation(seed, count=6, gain=0.0, texts=None):
    draw = random.Random(seed)
    texts = texts or [" ".join(draw.choices(ALPHABET, k=5)) for _ in range(count)]
    completions = [Completion(row, 0, text, 6, True) for row, text in enumerate(texts)]
    rewards = [0.1 * row + gain * (1 if row % 2 else -1) for row in range(len(texts))]
    scores = {
        "reward/bleu": mean_score("reward/bleu", "sig:reward", rewards, True),
        "rougeL": mean_score("rougeL", "sig:rouge", [50.0 + row for row in range(len(texts))], True),
        "length": mean_score("length", "sig:length", [6.0] * len(texts), None),
    }
    return Evaluation(completions, scores, {"max_new_tokens": 8, "do_sample": False, "num_beams": 1})


LOG = [{"step": step, "reward": step / 10, "kl_per_sequence": step / 5, "entropy": 1.0} for step in range(1, 9)]


def page_of(tmp_path, evaluations, rows=None, **settings):
    path = tmp_path / "new" / "report.html"
    write_page(path, evaluations, rows_of(6) if rows is None else rows, **settings)
    return path.read_text(encoding="utf-8")


def both():
    return {"sft": evaluation(0), "rl": evaluation(1, gain=0.05)}


def test_no_checkpoints_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^`evaluations` must have at least 1 checkpoint, got 0\."):
        page_of(tmp_path, {}, logs={"run": []})


def test_a_run_without_evaluations_has_a_page_of_its_curves(tmp_path):
    log = [{"step": step, "loss": 2.0 / step, "eval_loss": 2.5 / step, "learning_rate": 1e-4} for step in (1, 2, 3)]
    page = page_of(tmp_path, {}, [], logs={"sft": log}, config={"seed": 7}, title="A warm start")
    assert "sft · 3 steps" in Texts(page).text and "A warm start" in page
    assert re.findall(r'<section id="([\w-]+)">', page) == ["training", "settings"]
    assert re.findall(r"<title>(.*?)</title>", page)[1:4] == ["Loss", "Held out: loss", "Learning rate"]


def test_checkpoints_of_different_rows_stand_side_by_side_without_a_comparison(tmp_path):
    page = page_of(tmp_path, {"a": evaluation(0), "b": evaluation(1, count=4)}, compared={}, logs={"a": LOG})
    text = Texts(page).text
    assert "The runs were evaluated on different rows: their scores are not compared." in text
    assert "difference" not in page[page.index("<thead>") : page.index("</thead>")]
    assert "52.50" in text and "51.50" in text


def rollout(step, prompt, reward, **others):
    known = {"rewards": {"a": reward, "b": None}, "reward": reward, "advantage": reward - 0.5, "kl": 0.25}
    return {
        "step": step,
        "prompt": prompt,
        "completion": f"text {reward}",
        **known,
        "length": 4,
        "finished": True,
        **others,
    }


def test_rollouts_are_shown_by_prompt_with_their_rewards_and_advantages(tmp_path):
    lines = [rollout(1, "p", 0.75), rollout(1, "p", 0.25, finished=False)]
    page = page_of(tmp_path, both(), rollouts=[*lines, {**lines[0], "step": 3, "prompt": EVIL, "completion": EVIL}])
    section = page[page.index('<section id="rollouts">') : page.index('<section id="settings">')]
    text = Texts(section).text.replace("\xa0", " ")
    assert re.findall(r'data-step="(\d+)"', section) == ["1", "3"] and 'data-steps="1,3"' in section
    assert "reward 0.7500 · advantage +0.2500 · a 0.7500 · b n/a · KL 0.2500 · 4 tokens" in text
    assert "reward 0.2500 · advantage -0.2500" in text and "4 tokens, unfinished" in text
    assert escape(EVIL) in section and "<img" not in section and EVIL in text


def test_of_many_rollouts_as_many_steps_are_shown_as_fit_and_the_last(tmp_path):
    lines = [rollout(step, "p", 0.5) for step in range(1, 11)]
    page = page_of(tmp_path, both(), rollouts=lines, max_samples=1)
    assert 'data-steps="2,6,10"' in page and "of 3 of the 10 steps" in page


def test_rollouts_of_several_runs_are_shown_with_a_choice_of_run(tmp_path):
    lines = {
        "a": [rollout(step, "p", 0.5) for step in range(1, 11)],
        "b": [rollout(2, "q", 0.25)],
        "c": [],
    }
    page = page_of(tmp_path, {}, logs={run: LOG for run in lines}, rollouts=lines, max_samples=2)
    section = page[page.index('<section id="rollouts">') :]
    # Of the 6 completions that fit, each of the three runs has its share.
    assert "of 2 of the 10 steps of a, the 1 step of b in <code>rollouts.jsonl</code>" in " ".join(section.split())
    assert re.findall(r'<option data-steps="([\d,]+)">(\w)</option>', section) == [("5,10", "a"), ("2", "b")]
    assert re.findall(r'data-run="(\w)" data-step="(\d+)"', section) == [("a", "5"), ("a", "10"), ("b", "2")]


def test_the_page_has_scores_charts_samples_and_settings(tmp_path):
    page = page_of(
        tmp_path, both(), logs={"rl": LOG}, config={"seed": 7, "lora": {"r": 16}, "baseline": rows_of}, title="My run"
    )
    text = Texts(page).text
    for expected in (
        "My run",
        "rl compared with sft on 6 prompts · greedy decoding, at most 8 tokens",
        "No warnings.",
    ):
        assert expected in text
    for section in ("scores", "distributions", "training", "reward-against-kl", "samples", "settings"):
        assert f'<section id="{section}">' in page and f'href="#{section}"' in page
    assert "sig:reward" in text and "seed" in text and "lora" in text and "16" in text
    assert page.startswith("<!doctype html>\n") and 'baseline"rows_of"' in text
    assert "prompt 5" in text and "gold 5" in text
    scores = re.search(r'<th scope="row" title="sig:rouge">.*?</tr>', page).group()
    assert Texts(scores).text.startswith("rougeL ↑sig:rouge52.50")


def test_a_triangle_marks_a_corrected_p_value_below_5_percent(tmp_path):
    def kinds(count, change):
        before = Evaluation([], {"bleu": mean_score("bleu", "s", [50.0] * count, True)}, {})
        after = Evaluation([], {"bleu": mean_score("bleu", "s", [50.0 + change] * count, True)}, {})
        page = page_of(tmp_path, {"sft": before, "rl": after}, [])
        return re.findall(rf'<td>(?:<span class="(\w+)">)?{re.escape(f"{change:+.2f}")}<', page)

    assert kinds(8, 1.0) == ["good"] and kinds(8, -1.0) == ["bad"]  # p = 2 / 256
    assert kinds(4, 1.0) == [""]  # p = 2 / 16, although the interval excludes 0


def test_every_chart_is_well_formed(tmp_path):
    charts = re.findall(r"<svg.*?</svg>", page_of(tmp_path, both(), logs={"rl": LOG}), flags=re.DOTALL)
    titles = [ET.fromstring(chart).find("{http://www.w3.org/2000/svg}title").text for chart in charts]
    assert titles == [
        *("Change from sft", "Reward/bleu of a prompt", "Length of a prompt", "Reward"),
        *("KL to the reference (nats per completion)", "Entropy (nats per token)", "In training (darker is later)"),
    ]


def test_checkpoints_with_a_kl_are_set_against_their_reward(tmp_path):
    measured = both()
    for kl, (label, found) in enumerate(measured.items()):
        scores = found.scores | {"kl": mean_score("kl", "s", [float(kl)] * 6, None)}
        measured[label] = Evaluation(found.completions, scores, found.decoding)
    page = page_of(tmp_path, measured)
    assert "<title>sft: 0.00, 0.2500</title>" in page and "<title>rl: 1.00, 0.2500</title>" in page


def test_a_checkpoint_has_one_colour_in_all_charts(tmp_path):
    measured = both() | {"late": evaluation(2)}
    for label in ("rl", "late"):  # the baseline is its own reference
        measured[label].scores["kl"] = mean_score("kl", "s", [1.0] * 6, None)
    page = page_of(tmp_path, measured, logs={"late": LOG})
    frontier = page[page.index('<section id="reward-against-kl">') : page.index('<section id="samples">')]
    assert re.findall(r'class="dot (s\d)"', frontier)[:2] == ["s1", "s2"]
    assert set(re.findall(r'<path class="(s\d)"', frontier)) == {"s2"}
    assert '<i class="s2"></i>late' in page


def test_nothing_is_fetched_and_no_foreign_script_runs(tmp_path):
    page = page_of(tmp_path, both(), logs={"rl": LOG})
    assert re.findall(r"https?:(?!//www\.w3\.org/2000/svg)|url\(|@import", page) == []
    tags = Texts(page).tags
    assert not [attrs for _, attrs in tags if {"src", "srcset", "onclick"} & {*attrs}]
    assert all(attrs["href"].startswith("#") for _, attrs in tags if "href" in attrs)
    policy = next(attrs["content"] for tag, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ") and "script-src 'sha256-" in policy


def test_markup_in_texts_is_escaped(tmp_path):
    evil = evaluation(2, texts=[EVIL] * 6)
    evil.scores[f"reward/{EVIL}"] = mean_score(f"reward/{EVIL}", EVIL, [0.0] * 6, True)
    rows = [{"prompt": [{"role": EVIL, "content": EVIL}], "references": [EVIL, EVIL]} for _ in range(6)]
    plain = evaluation(2, texts=["a b"] * 6)
    plain.scores[f"reward/{EVIL}"] = mean_score(f"reward/{EVIL}", EVIL, [1.0] * 6, True)
    page = page_of(tmp_path, {"a": plain, EVIL: evil}, rows, logs={EVIL: LOG}, config={EVIL: EVIL}, title=EVIL)
    seen = Texts(page)
    assert [tag for tag, _ in seen.tags].count("script") == 1
    assert "img" not in [tag for tag, _ in seen.tags]
    assert escape(EVIL) in page and EVIL in seen.text


def test_access_tokens_are_hidden(tmp_path):
    page = page_of(tmp_path, both(), config={"hub_token": "s3cret", "trainer": {"push_to_hub_token": "s3cret"}})
    assert "s3cret" not in page and page.count("<code>hidden</code>") == 2


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    assert page_of(tmp_path, both(), logs={"rl": LOG}) == page_of(tmp_path, both(), logs={"rl": LOG})


def test_rows_are_matched_by_their_ids(tmp_path):
    first = evaluation(0, texts=["the first", "the second"])
    other = evaluation(0, texts=["the second", "the first"])
    first.row_ids.extend("12")
    other.row_ids.extend("21")
    assert "<mark>" not in page_of(tmp_path, {"a": first, "b": other}, rows_of(2))
    other.row_ids[0] = "3"
    with pytest.raises(ValueError, match="must be of the same rows"):
        page_of(tmp_path, {"a": first, "b": other}, rows_of(2))


def test_changed_words_are_marked_against_the_baseline(tmp_path):
    two = {"a": evaluation(0, texts=["one two three"]), "b": evaluation(0, texts=["one 2 three"])}
    page = page_of(tmp_path, two, rows_of(1))
    assert "one <del>two</del> three" in page and "one <mark>2</mark> three" in page
    page = page_of(tmp_path, two | {"c": evaluation(0, texts=["one two three four"])}, rows_of(1))
    assert '<p class="text">one two three</p>' in page and "three <mark>four</mark>" in page


def test_of_many_rows_the_first_and_the_extremes_are_shown(tmp_path):
    before, after = evaluation(0, count=50), evaluation(1, count=50)
    values = [0.0] * 50
    values[30], values[40] = 1.0, -1.0
    before.scores["reward/bleu"] = mean_score("reward/bleu", "s", [0.0] * 50, True)
    after.scores["reward/bleu"] = mean_score("reward/bleu", "s", values, True)
    page = page_of(tmp_path, {"a": before, "b": after}, rows_of(50), max_samples=4)
    assert re.findall(r"<header>prompt (\d+)</header>", page) == ["1", "2", "31", "41"]
    assert "4 of 50 prompts: the first, and those whose reward rose or fell most; the JSON files have all." in page
    assert re.findall(r'data-values="(.*?)"', page) == ["0", "0", "1", "-1"]
    page = page_of(tmp_path, {"a": before}, rows_of(50), max_samples=4)
    assert "4 of 50 prompts: the first; the JSON files have all." in page


def test_a_page_can_have_little_or_no_content(tmp_path):
    nothing = Evaluation([], {}, {})
    nan = Evaluation(
        [Completion(0, 0, "", 1, False)],
        {
            "reward/r": mean_score("reward/r", "s", [None], True),
            "bleu": Score("bleu", math.inf, "s", [math.inf], True),
            "distinct1": Score("distinct1", math.nan, "s", None, True),
        },
        {},
    )
    one = evaluation(0, count=1)
    assert "no text" in page_of(tmp_path, {"a": nan}, rows_of(1))
    for found in ({"a": nothing}, {"a": nan, "b": nan}, {"a": one}, {"a": one, "b": one}, {"a": one, "b": nothing}):
        page = page_of(tmp_path, found, rows_of(1), logs={"a": [], "b": [{"step": 1}]})
        assert "Nothing could be checked" in page or "checked: " in page.lower()
        for chart in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
            assert "nan" not in chart and ET.fromstring(chart) is not None
    assert "<h2>Samples</h2>" not in page_of(tmp_path, {"a": one}, [])


def test_the_report_writes_the_page_and_prints_its_warnings(tmp_path, capsys):
    measured = both()
    measured["rl"].scores["unfinished"] = mean_score("unfinished", "share", [1.0] * 6, False)
    report(measured, rows_of(6), tmp_path, samples=1, logs={"rl": LOG}, title="A run")
    out = capsys.readouterr().out
    assert (
        "Warning: rl: 100.0 % of the completions are unfinished" in out and f"Report: {tmp_path}/report.html\n" in out
    )
    assert "Checked: equal settings" in out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>A run</h1>" in page and "<li>rl: 100.0 % of the completions are unfinished" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "rl.json", "sft.json"]


def dump(path, fragment, profile):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here: the page is not opened")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
    flags += ("--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}")
    command = [browser, *flags, "--virtual-time-budget=2000", "--dump-dom", f"{path.as_uri()}{fragment}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_samples_are_sorted_and_searched_in_a_browser(tmp_path):
    texts = ["plain words", "a heron", "plain words", "the Heron again", "plain words", "heron at last"]
    before, after = evaluation(0), evaluation(1, texts=texts)
    changes = [0.0, 0.1, 0.2, -0.3, 0.4, 0.5]
    before.scores["reward/bleu"] = mean_score("reward/bleu", "s", [0.0] * 6, True)
    after.scores["reward/bleu"] = mean_score("reward/bleu", "s", changes, True)
    path = tmp_path / "report.html"
    write_page(path, {"a": before, "b": after}, rows_of(6), logs={"b": LOG})
    page = dump(path, "#q=hERON&sort=0:-1", tmp_path / "profile")
    cards = [attrs for tag, attrs in Texts(page).tags if tag == "article"]
    assert [card["data-values"] for card in cards] == ["0.5", "0.4", "0.2", "0.1", "0", "-0.3"]
    assert [card["data-values"] for card in cards if "hidden" not in card] == ["0.5", "0.1", "-0.3"]
    assert re.search(r"<output[^>]*>3 of 6</output>", page) and '<html lang="en" class="js">' in page
    assert not re.search(r"<svg[^>]*>\s*<title>", page)  # the script took the titles of charts for its own tips


def test_rollouts_are_searched_sorted_and_narrowed_to_a_step_in_a_browser(tmp_path):
    lines = [
        rollout(1, "p", 0.2),
        rollout(1, "p", 0.6),
        rollout(2, "q", 0.9),
        rollout(2, "r", 0.1),
        rollout(2, "r", 0.4),
    ]
    path = tmp_path / "report.html"
    write_page(path, both(), rows_of(6), rollouts=lines)

    def seen(fragment):
        page = dump(path, fragment, tmp_path / "profile")
        section = page[page.index('<section id="rollouts">') : page.index('<section id="settings">')]
        cards = re.findall(r'<article class="sample"( hidden="")?.*?</article>', section, flags=re.DOTALL)
        bodies = re.findall(r"<article.*?</article>", section, flags=re.DOTALL)
        shown = [body for body in bodies if " hidden" not in body[: body.index(">")]]
        assert len(cards) == 3
        return [re.findall(r"text (0\.\d)", body) for body in shown]

    assert seen("") == [["0.9"], ["0.1", "0.4"]]  # the last step
    assert seen("#rollouts-step=all&rollouts-sort=0:-1") == [["0.9"], ["0.6", "0.2"], ["0.4", "0.1"]]
    assert seen("#rollouts-step=all&rollouts-sort=1:1&rollouts-q=Text+0.6") == [["0.2", "0.6"]]


def test_rollouts_of_a_run_are_chosen_in_a_browser(tmp_path):
    lines = {"a": [rollout(1, "p", 0.2), rollout(2, "p", 0.6)], "b": [rollout(7, "q", 0.9)]}
    path = tmp_path / "runs.html"
    write_page(path, {}, [], logs=dict.fromkeys(lines, LOG), rollouts=lines)
    for fragment, expected in (
        ("", ["0.6"]),
        ("#rollouts-run=b", ["0.9"]),
        ("#rollouts-run=a&rollouts-step=1", ["0.2"]),
        ("#rollouts-run=a&rollouts-step=all", ["0.2", "0.6"]),
    ):
        section = dump(path, fragment, tmp_path / "profile").partition('<section id="rollouts">')[2]
        shown = [
            body for body in re.findall(r"<article.*?</article>", section, flags=re.DOTALL) if "hidden" not in body
        ]
        assert re.findall(r"text (0\.\d)", "".join(shown)) == expected


def test_access_tokens_are_hidden_in_groups_in_the_facts_and_where_runs_differ(tmp_path):
    config = {"hub_token": "s3cret", "trainer": {"push_to_hub_token": "s3cret", "id2label": {0: "negative"}}}
    report(both(), rows_of(6), tmp_path, samples=0, logs={}, config=config)
    facts = json.loads((tmp_path / "report.json").read_text())["config"]
    assert facts == {
        "hub_token": "hidden",
        "trainer": {"push_to_hub_token": "hidden", "id2label": {"0": "negative"}},
    }
    differing = {"hub_token": {"a": "s3cret", "b": "0ther"}, "beta": {"a": 0.1, "b": 0.2}}
    page = page_of(tmp_path, {}, [], logs={"a": LOG, "b": LOG}, differing=differing)
    assert "s3cret" not in page and page.count("<code>hidden</code>") == 2 and "<code>0.2</code>" in page
