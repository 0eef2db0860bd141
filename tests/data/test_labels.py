"""Labelled texts: the index of a label, and files without a header."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from lmrl.data import load_labelled


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_file_without_a_header_is_read_with_the_names_given(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", "so good\t1\nso bad\t0\n")
    write(tmp_path / "dev.tsv", "bad\t0\n")
    train, held_out, names = load_labelled(
        str(tmp_path), column_names=["text", "label"], class_names=["negative", "positive"]
    )
    assert train.to_list() == [{"text": "so good", "label": 1}, {"text": "so bad", "label": 0}]
    assert held_out.to_list() == [{"text": "bad", "label": 0}]
    assert names == ["negative", "positive"]


def test_a_row_that_has_other_columns_than_were_named_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", "so good\t1\n")
    with pytest.raises(ValueError, match=r"line 1: a row must have 3 cells, for .*, got 2"):
        load_labelled(str(tmp_path), column_names=["id", "text", "label"])
    with pytest.raises(ValueError, match=r"^`column_names` must differ, got \['text', 'text'\]\. Rename one"):
        load_labelled(str(tmp_path), column_names=["text", "text"])


def test_the_error_about_a_file_without_a_header_names_the_argument_that_names_columns(tmp_path):
    (tmp_path / "train.tsv").write_text("a fine film\t1\na dull one\t0\n")
    with pytest.raises(ValueError, match=r"must name one of \['a fine film', '1'\].* with `column_names`\."):
        load_labelled(str(tmp_path))


def test_numbers_are_ordered_as_numbers_and_words_as_words(tmp_path: Path) -> None:
    numbers = write(tmp_path / "numbers.csv", "text,label\na,10\nb,9\nc,10\nd,9\n")
    assert load_labelled(numbers, eval_rows=1)[2] == ["9", "10"]
    below_zero = write(tmp_path / "below_zero.csv", "text,label\na,-10\nb,-9\nc,0.5\nd,-10\n")
    assert load_labelled(below_zero, eval_rows=1)[2] == ["-10", "-9", "0.5"]
    words = write(tmp_path / "words.csv", "review,mood\na,sad\nb,glad\nc,sad\nd,glad\n")
    train, held_out, names = load_labelled(words, text_column="review", label_column="mood", eval_rows=2)
    assert names == ["glad", "sad"]
    right = {"a": 1, "b": 0, "c": 1, "d": 0}
    assert {row["text"]: row["label"] for part in (train, held_out) for row in part} == right


def test_a_dataset_has_its_own_names(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["world", "sports"])})
    part = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    DatasetDict(train=part, test=part).save_to_disk(tmp_path)
    train, _, names = load_labelled(str(tmp_path))
    assert (names, list(train["label"])) == (["world", "sports"], [1, 0])


@pytest.mark.parametrize(
    ("test", "options", "message"),
    [
        ("text,label\nc,7\n", {}, r"\['0', '1'\], got the text 'c' and the label '7' in row 0"),
        ("text,label\nc,0\n", {"class_names": ["one"]}, "a different name in `class_names` for each"),
        (
            "text,label\nc,0\n",
            {"text_column": "txt"},
            "`text_column` must name one of .*, got 'txt'. Did you mean `text`?",
        ),
        ("sentence,label\nc,0\n", {}, r"`text_column` must name one of \['sentence', 'label'\], got 'text'\."),
        ("text,labels\nc,0\n", {}, r"`label_column` must name one of .*, got 'label'\. Did you mean `labels`\?"),
        ("text,label\n", {}, "A dataset must have at least 1 row, got 0 in split 'test' of "),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, test: str, options: dict, message: str) -> None:
    write(tmp_path / "train.csv", "text,label\na,0\nb,1\n")
    write(tmp_path / "test.csv", test)
    with pytest.raises(ValueError, match=message):
        load_labelled(str(tmp_path), **options)


def test_a_missing_label_is_not_the_label_none(tmp_path: Path) -> None:
    rows = '{"text": "a", "label": "None"}\n{"text": "b", "label": "1"}\n{"text": "c", "label": null}\n'
    with pytest.raises(ValueError, match=r"got the text 'c' and the label None in row 2"):
        load_labelled(write(tmp_path / "rows.jsonl", rows))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("c,", r"labels of the training rows, \['0', '1'\], got the text 'c' and the label '' in row 2"),
        ("c, ", "got the text 'c' and the label ' ' in row 2"),
        (",1", "got the text '' and the label '1' in row 2"),
    ],
)
def test_a_cell_of_a_table_that_is_blank_is_no_text_and_no_label(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_labelled(write(tmp_path / "rows.csv", f"text,label\na,0\nb,1\n{row}\n"))


def test_several_labels_of_a_text_are_not_one(tmp_path: Path) -> None:
    rows = '{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": ["x"]}\n'
    with pytest.raises(ValueError, match=r"got the text 'a' and the label \['x', 'y'\] in row 0"):
        load_labelled(write(tmp_path / "rows.jsonl", rows))


def test_one_label_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least two labels"):
        load_labelled(write(tmp_path / "one.csv", "text,label\na,0\nb,0\n"))


def test_held_out_texts_of_another_file_have_the_labels_of_the_training_rows(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", "text,label\na,bad\nb,good\n")
    other = write(tmp_path / "other.csv", "text,label\nc,good\nd,good\n")
    rows, held_out, names = load_labelled(train, eval_dataset_name=other)
    assert (len(rows), names) == (2, ["bad", "good"])
    assert held_out.to_list() == [{"text": "c", "label": 1}, {"text": "d", "label": 1}]
    strange = write(tmp_path / "strange.csv", "text,label\nc,fair\n")
    with pytest.raises(ValueError, match=r"one of the labels of the training rows, \['bad', 'good'\], .*'fair'"):
        load_labelled(train, eval_dataset_name=strange)


def test_texts_that_are_all_repeated_are_named_as_texts(tmp_path: Path) -> None:
    twice = write(tmp_path / "twice.csv", "text,label\na,0\na,0\nb,1\nb,1\n")
    with pytest.raises(ValueError, match=r"every text is repeated that often, as 'a', and rows with the same text"):
        load_labelled(twice, eval_rows=1)


def test_nan_is_no_label(tmp_path: Path) -> None:
    rows = '{"text": "a", "label": 0.0}\n{"text": "b", "label": 1.0}\n{"text": "c", "label": NaN}\n'
    with pytest.raises(ValueError, match=r"\['0.0', '1.0'\], got the text 'c' and the label nan in row 2"):
        load_labelled(write(tmp_path / "rows.jsonl", rows))
