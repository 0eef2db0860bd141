"""Reading of the completions of other systems, and the errors of wrong files."""

import json

import pytest

from lmrl.evaluation import Completion, measure_completions, read_outputs

ROWS = [{"prompt": "a", "id": "x"}, {"prompt": "b", "id": 7}, {"prompt": "c", "id": "z"}]


def jsonl(tmp_path, *lines, name="out.jsonl"):
    path = tmp_path / name
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def texts(path, rows=ROWS):
    return [completion.text for completion in read_outputs(path, rows)]


def test_a_text_file_has_one_text_per_line_and_an_empty_line_is_an_empty_text(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("a b\n\n c \n", encoding="utf-8")
    assert read_outputs(path, ROWS) == [
        Completion(0, 0, "a b", 2, True),
        Completion(1, 0, "", 0, True),
        Completion(2, 0, " c ", 1, True),
    ]
    path.write_bytes("\ufeffa\r\nb\u2028\x85b\r\n".encode())  # of another system in more than one way
    assert texts(path, ROWS[:2]) == ["a", "b\u2028\x85b"]
    path.write_text("a\nb\n\n")
    assert texts(str(path)) == ["a", "b", ""]


@pytest.mark.parametrize("key", ["completion", "output", "text", "prediction"])
def test_lines_without_ids_are_in_the_order_of_the_rows(tmp_path, key):
    assert texts(jsonl(tmp_path, {key: "a\nb"}, {key: ""}, {key: "c", "more": 1})) == ["a\nb", "", "c"]


def test_lines_with_ids_are_put_into_the_order_of_the_rows(tmp_path):
    path = jsonl(tmp_path, *({"id": name, "text": f"of {name}"} for name in (7, "z", "x")))
    assert texts(path) == ["of x", "of 7", "of z"]


def test_lengths_are_counted_as_those_of_generated_texts(tmp_path, tokenizer):
    path = jsonl(tmp_path, *({"text": text} for text in ("a b", "", "c d e f")))
    found = read_outputs(path, ROWS, tokenizer)
    assert [completion.length for completion in found] == [3, 1, 5]  # the end is a token
    assert measure_completions(found, ROWS).scores["length"].signature == "unit:tokens|eos:included"
    score = measure_completions(read_outputs(path, ROWS), ROWS, length_unit="words").scores["length"]
    assert (score.value, score.signature) == (2.0, "unit:words")


def with_ids(*names):
    return [{"id": name, "text": "a"} for name in names]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"text": "a"}] * 2, r"out.jsonl' must have one line for each of 3 rows, got 2"),
        ([], "must have one line for each of 3 rows, got 0"),
        (
            [{"text": "a"}, "{'text': 1}"],
            r"out.jsonl', line 2: every line must be a JSON object, got .*: 1.* \(.*\)",
        ),
        ([{"text": "a"}, ""], "line 2: every line must be a JSON object"),
        ([{"text": "a"}, '{"text": "b'], "line 2: every line must be a JSON object"),
        (
            [{"text": "a"}, {"texts": "b"}],
            'line 2: a text must be given as one of completion.*, got .{"texts"',
        ),
        ([{"text": None}], "line 1: a text must be given as one of"),
        (["5"], "line 1: a text must be given as one of"),
        (with_ids("x", 7), r"must have one line per row, got none with the id 'z' \(1 of 3 rows have none\)"),
        (with_ids("x", "7", "z"), "got none with the id 7"),
        (with_ids("x", 7, "z", "w"), "must have lines of these rows only, got the id 'w'"),
        (with_ids("x", 7, "x"), r"`id` must be different for all lines of .*, got 'x' 2 times"),
        ([*with_ids("x", 7), {"text": "a"}], r"`id` must be given for all lines of .* or for none, got 1 without"),
        (with_ids(["x"]), r"line 1: `id` must be a text or a whole number, got \['x'\]"),
    ],
)
def test_a_wrong_file_raises_with_the_place_and_the_rule(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        read_outputs(jsonl(tmp_path, *lines), ROWS)


def test_rows_without_different_ids_raise(tmp_path):
    path = jsonl(tmp_path, *with_ids("x", "y"))
    with pytest.raises(ValueError, match="`id` must be different for all rows, got 'x' 2 times"):
        read_outputs(path, [{"id": "x"}, {"id": "x"}])
    with pytest.raises(ValueError, match="`id` must be given for all rows or for none, got 2 without"):
        read_outputs(path, [{"prompt": "a"}, {"prompt": "b"}])


def test_a_file_that_is_not_utf_8_raises(tmp_path):
    (tmp_path / "out.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match=r"out.txt' must be UTF-8 text, got .*. Save it again as UTF-8"):
        read_outputs(tmp_path / "out.txt", ROWS[:1])
    with pytest.raises(FileNotFoundError, match=r"no.txt"):
        read_outputs(tmp_path / "no.txt", ROWS)
