"""Files with other content than their names promise are refused in a sentence that names them."""

from pathlib import Path

import pyarrow.parquet
import pytest

from lmrl.data.sources import read_split


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv"])
def test_text_in_another_encoding_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"train{suffix}"
    path.write_bytes("prompt,é\n".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"train\{suffix}' must be UTF-8 text, got .*\. Save it again as UTF-8\."):
        read_split(str(path), None, "train")


@pytest.mark.parametrize(("name", "content"), [("train.jsonl", "[" * 9**5), ("train.json", "[" * 9**5)])
def test_lists_within_lists_without_end_are_refused(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name}', line 1: lists or objects are nested too deeply"):
        read_split(str(tmp_path / name), None, "train")


def test_a_type_of_parquet_that_no_dataset_has_is_refused(tmp_path: Path) -> None:
    column = pyarrow.array([[("a", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64()))
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a"], "slots": column}), tmp_path / "train.parquet")
    with pytest.raises(
        ValueError, match=r"train\.parquet' must be a Parquet file that `datasets` can read, got .*map<string"
    ):
        read_split(str(tmp_path / "train.parquet"), None, "train")


@pytest.mark.parametrize("value", [str(10**40), '"\\ud800"'])
def test_a_value_that_no_column_can_store_is_refused(value: str, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(f'{{"prompt": "a", "number": {value}}}\n')
    with pytest.raises(
        ValueError, match=r"train\.jsonl' has a value that no column can store \(.*\)\. Write it as text"
    ):
        read_split(str(tmp_path / "train.jsonl"), None, "train")


def test_damaged_pages_of_a_parquet_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": [str(number) * 20 for number in range(1000)]}), path)
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 396 + content[400:])
    with pytest.raises(ValueError, match=r"train\.parquet' must be a Parquet file that `datasets` can read, got "):
        read_split(str(path), None, "train")


def test_a_folder_with_the_name_of_a_table_is_no_file_of_a_split(tmp_path: Path) -> None:
    (tmp_path / "train.csv").mkdir()
    (tmp_path / "test.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(ValueError, match=r"The split must be one of \['test'\] in .*, got 'train'\."):
        read_split(str(tmp_path), None, "train")
