"""Pairs of graded texts, and pairs from a file: the texts that are compared, and no prompt on both sides."""

import json
import math
from pathlib import Path

import pytest
from datasets import Dataset

from lmrl.data import load_pairs, pairs_of_graded


def rows(*texts: tuple[str, str, float, float]) -> Dataset:
    return Dataset.from_list([dict(zip(("prompt", "text", "x", "y"), text, strict=True)) for text in texts])


def read(pairs: Dataset) -> list[tuple[str, ...]]:
    return [(pair["prompt"], pair["chosen"], pair["rejected"]) for pair in pairs]


def write(path: Path, *lines: dict) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_each_two_texts_of_a_prompt_make_a_pair_by_their_mean_grades() -> None:
    graded = rows(("p", "a", 1, 5), ("q", "c", 9, 9), ("p", "b", 5, 3), ("p", "d", 0, 0))
    # The means are 3, 4 and 0.
    assert read(pairs_of_graded(graded, "text", ["x", "y"])) == [
        ("p", " b", " a"),
        ("p", " a", " d"),
        ("p", " b", " d"),
    ]


def test_grades_too_close_and_equal_texts_make_no_pair() -> None:
    graded = rows(("p", "a", 0, 0), ("p", "b", 2, 0), ("p", "c", 5, 0), ("p", "c", 1, 0), ("p", "d", 5, 0))
    assert read(pairs_of_graded(graded, "text", ["x"], min_grade_difference=3)) == [
        ("p", " c", " a"),
        ("p", " d", " a"),
        ("p", " c", " b"),
        ("p", " d", " b"),
        ("p", " d", " c"),
    ]
    assert ("p", " c", " d") not in read(pairs_of_graded(graded, "text", ["x"]))


def test_a_prompt_that_ends_in_white_space_is_followed_by_the_text_alone() -> None:
    graded = Dataset.from_list([{"prompt": "p: ", "text": text, "x": x} for text, x in (("a", 1), ("b", 2))])
    assert read(pairs_of_graded(graded, "text", ["x"])) == [("p: ", "b", "a")]


def test_a_chat_gets_messages() -> None:
    chat = [{"role": "user", "content": "p"}]
    graded = Dataset.from_list([{"prompt": chat, "text": text, "x": x} for text, x in (("a", 1), ("b", 2))])
    (pair,) = pairs_of_graded(graded, "text", ["x"])
    assert (pair["prompt"], pair["chosen"]) == (chat, [{"role": "assistant", "content": "b"}])


@pytest.mark.parametrize(
    ("graded", "message"),
    [
        (rows(("p", "a", 1, 1), ("q", "b", 2, 2)), "make no pair"),
        (rows(("p", "a", 1, 1), ("p", "b", None, 2)), "row 1 .*Drop the row"),
        (rows(("p", "a", 1, 1), ("p", None, 2, 2)), "row 1 .*Drop the row"),
        *(
            (rows(("p", "a", 1.0, 1.0), ("p", "b", bad, 2.0)), r"finite numbers, got .* in row 1 .*Drop the row")
            for bad in (math.nan, math.inf, -math.inf, 1e400)
        ),
    ],
)
def test_grades_that_make_no_pairs_are_refused(graded: Dataset, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pairs_of_graded(graded, "text", ["x", "y"])
    with pytest.raises(ValueError, match=r"`grade_columns` must name one of .*, got 'grade'"):
        pairs_of_graded(graded, "text", ["grade"])


def test_graded_texts_are_split_by_prompt_and_lists_are_joined(tmp_path: Path) -> None:
    lines = [
        {"facts": [f"f{p}", "g"], "text": f"{p}{s}", "grade": s, "prompt": "not this"}
        for s in range(4)
        for p in range(6)
    ]
    name = write(tmp_path / "graded.jsonl", *lines)
    options = {"prompt_template": "{facts:, } ->", "text_column": "text", "grade_columns": ["grade"], "eval_rows": 8}
    train, held_out = load_pairs(name, **options)
    assert (len(train), len(held_out)) == (4 * 6, 2 * 6)
    assert not set(train["prompt"]) & set(held_out["prompt"])
    assert {*train["prompt"], *held_out["prompt"]} == {f"f{p}, g ->" for p in range(6)}
    for pair in held_out:
        p = pair["prompt"][1]
        assert pair["chosen"].startswith(f" {p}") and pair["rejected"].startswith(f" {p}")
        assert pair["chosen"] > pair["rejected"]
    assert load_pairs(name, **options, eval_split_seed=1)[1]["prompt"] != held_out["prompt"]


def test_pairs_of_a_file_are_kept_and_split_by_prompt(tmp_path: Path) -> None:
    lines = [{"prompt": f"p{n // 2}", "chosen": "a", "rejected": "b", "other": n} for n in range(8)]
    train, held_out = load_pairs(write(tmp_path / "pairs.jsonl", *lines), eval_rows=3)
    assert (len(train), len(held_out)) == (6, 2)
    assert not set(train["prompt"]) & set(held_out["prompt"])
    assert train.column_names == ["prompt", "chosen", "rejected"]


def test_chats_without_a_prompt_have_their_common_beginning_as_prompt(tmp_path: Path) -> None:
    lines = [
        {
            kind: [{"role": "user", "content": f"p{n}"}, {"role": "assistant", "content": kind}]
            for kind in ("chosen", "rejected")
        }
        for n in range(4)
    ]
    train, held_out = load_pairs(write(tmp_path / "chats.jsonl", *lines), eval_rows=1)
    assert (len(train), len(held_out)) == (3, 1)
    assert train[0]["chosen"] == [{"role": "assistant", "content": "chosen"}]
    assert train[0]["prompt"][0]["content"].startswith("p")


def test_texts_without_a_prompt_have_their_common_beginning_as_prompt(tmp_path: Path) -> None:
    texts = [("q: a b", "q: a c"), ("abc ", "xyz"), ("", "x"), ("q: same", "q: same")]
    lines = [{"chosen": chosen, "rejected": rejected} for chosen, rejected in texts]
    name = write(tmp_path / "pairs.jsonl", *lines)
    pairs, _ = load_pairs(name, eval_dataset_name=name)
    assert read(pairs) == [("q: a", " b", " c"), ("", "abc ", "xyz"), ("", "", "x"), ("q: sam", "e", "e")]
    missing = write(tmp_path / "missing.jsonl", *lines, {"chosen": None, "rejected": "x"})
    with pytest.raises(ValueError, match=r"all texts or all chat messages, got \['NoneType', 'str'\] in row 4"):
        load_pairs(missing, eval_dataset_name=name)


def test_a_test_split_is_used_where_there_is_one(tmp_path: Path) -> None:
    for split, prompts in (("train", "abc"), ("test", "de")):
        write(tmp_path / f"{split}.jsonl", *({"prompt": p, "chosen": "x", "rejected": "y"} for p in prompts))
    train, held_out = load_pairs(str(tmp_path), eval_rows=1)
    assert (train["prompt"], held_out["prompt"]) == (["a", "b", "c"], ["d"])


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    name = write(tmp_path / "pairs.jsonl", *({"prompt": p, "chosen": "x", "rejected": "y"} for p in "ab"))
    with pytest.raises(ValueError, match="must both be set for graded texts, and neither for pairs, got 'chosen'"):
        load_pairs(name, text_column="chosen")
    with pytest.raises(ValueError, match=r"`prompt_column` must name one of .*, got 'question'"):
        load_pairs(name, prompt_column="question")
    chat = [{"role": "assistant", "content": "x"}]
    mixed = write(tmp_path / "mixed.jsonl", *({"prompt": p, "chosen": chat, "rejected": chat} for p in "ab"))
    with pytest.raises(ValueError, match=r"must be all texts or all chat messages, got \['list', 'str'\] in row 0"):
        load_pairs(mixed)
    single = write(tmp_path / "single.jsonl", *({"prompt": p, "completion": "x"} for p in "ab"))
    with pytest.raises(ValueError, match="Rename columns, or set `text_column` and `grade_columns`"):
        load_pairs(single)


def test_held_out_pairs_may_be_of_another_file(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", {"prompt": "p", "chosen": "a", "rejected": "b"})
    other = write(tmp_path / "other.jsonl", {"prompt": "q", "chosen": "c", "rejected": "d"})
    pairs, held_out = load_pairs(train, eval_dataset_name=other)
    assert (read(pairs), read(held_out)) == ([("p", "a", "b")], [("q", "c", "d")])
