"""Where the rows come from: files, folders of files, folders saved by `datasets`, the hub.

JSON, CSV and TSV are read with the standard library and not with `datasets.load_dataset`, which infers types (a
cell "NA" becomes null, "08:10" a time) and cannot say on which line a file is broken.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
SPLIT_OF_PREFIX = {"train": "train", "dev": "validation", "val": "validation", "test": "test"}

Row = dict[str, Any]

_TOO_DEEP = "lists or objects within others, too many to be read: flatten them"


def read_split(name: str, config: str | None, split: str, column_names: Sequence[str] | None = None) -> "Dataset":
    """
    Returns the rows of one split of a file, a folder or a hub dataset.

    Args:
        name (`str`):
            Path of a file or folder, or the id of a dataset on the hub.
        config (`str` or `None`):
            Configuration of a hub dataset.
        split (`str`):
            Name of the split.
        column_names (`Sequence[str]`, *optional*):
            Columns of CSV and TSV files that have no header. Defaults to what their first line names.

    Returns:
        `datasets.Dataset`, possibly empty.

    Raises:
        FileNotFoundError: If there is nothing by that name.
        ValueError: If it cannot be read, or has no such split.
    """
    path = Path(name).expanduser()
    if not path.exists() and not _looks_like_path(name):
        return _read_hub(name, config, split)
    if not path.exists():
        raise FileNotFoundError(
            f"no file or folder {str(path.absolute())!r} (from {name!r}): check the spelling, or the directory the "
            f"command is run from, {str(Path.cwd())!r}"
        )
    if config is not None:
        raise ValueError(
            f"dataset_config is {config!r}, but {name!r} is a local path, which has no configurations: leave it out"
        )
    if path.is_file():
        return _read_file_split(path, split, column_names)
    if any((path / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
        return _read_saved(path, split)
    return _read_folder(path, split, column_names)


def splits_of(name: str, config: str | None) -> set[str]:
    """
    Returns the names of the splits that a dataset has: `"train"` alone for a single file.

    Args:
        name (`str`):
            As for [`read_split`].
        config (`str` or `None`):
            Configuration of a hub dataset.

    Raises:
        FileNotFoundError: If there is no hub dataset by that name.
    """
    path = Path(name).expanduser()
    if not path.exists() and not _looks_like_path(name):
        from datasets import get_dataset_split_names

        try:
            return set(get_dataset_split_names(name, config))
        except (FileNotFoundError, ConnectionError) as error:
            raise _not_found(name, error) from error
    if not path.is_dir():
        return {"train"}
    if (path / "dataset_dict.json").is_file():
        return set(json.loads((path / "dataset_dict.json").read_text())["splits"])
    files = [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES]
    return {split for file in files if (split := _split_of(file)) is not None} or {"train"}


def _looks_like_path(name: str) -> bool:
    """Returns whether a name that does not exist was meant as a path (a hub id is `name` or `owner/name`)."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).suffix.lower() in SUFFIXES


def _read_hub(name: str, config: str | None, split: str) -> "Dataset":
    """Returns a split of a hub dataset; what is not found there is reported with the local path looked for too."""
    from datasets import Dataset, load_dataset

    try:
        rows = load_dataset(name, config, split=split)
    except (FileNotFoundError, ConnectionError) as error:
        raise _not_found(name, error) from error
    if not isinstance(rows, Dataset):
        raise ValueError(f"split {split!r} of {name!r} is a {type(rows).__name__}: name one split, such as 'train'")
    return rows


def _not_found(name: str, error: Exception) -> FileNotFoundError:
    """Returns the error for what is neither here nor on the hub."""
    return FileNotFoundError(
        f"{name!r} is neither a file or folder ({str(Path(name).absolute())!r} does not exist) nor a dataset that "
        f"the hub could give ({type(error).__name__}: {error}): check the spelling, or go online once to fetch it"
    )


def _read_saved(path: Path, split: str) -> "Dataset":
    """Returns a split of a folder written by `save_to_disk`, of a `Dataset` or of a `DatasetDict`."""
    from datasets import Dataset, load_from_disk

    saved = load_from_disk(str(path))
    if isinstance(saved, Dataset):
        # A dataset that was cut out of a hub dataset remembers the split it was.
        _check_split(split, {"train", str(saved.split or "train")}, path)
        return saved
    return saved[_check_split(split, set(saved), path)]


def _read_file_split(path: Path, split: str, column_names: Sequence[str] | None) -> "Dataset":
    """Returns the rows of a single file: "train", the default, or the split that its name begins with."""
    _check_suffix(path)
    own = _split_of(path)
    _check_split(split, {"train", own} if own else {"train"}, path)
    return _to_dataset(_read_rows(path, column_names), path)


def _read_folder(path: Path, split: str, column_names: Sequence[str] | None) -> "Dataset":
    """Returns the rows of the files of a folder whose names begin with the split, in the order of their names."""
    from datasets import concatenate_datasets

    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and _split_of(file))
    if not files:
        raise ValueError(
            f"no file in {str(path.absolute())!r} is named train*, dev*, validation* or test* and ends in one of "
            f"{list(SUFFIXES)}; there are {sorted(file.name for file in path.iterdir())}: rename the files, or "
            "name one file"
        )
    wanted = _check_split(split, {str(_split_of(file)) for file in files}, path)
    parts = [_to_dataset(_read_rows(file, column_names), file) for file in files if _split_of(file) == wanted]
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0]


def _split_of(path: Path) -> str | None:
    """Returns the split that a file's name begins with, or `None`."""
    return next((split for prefix, split in SPLIT_OF_PREFIX.items() if path.name.lower().startswith(prefix)), None)


def _check_split(split: str, present: set[str], path: Path) -> str:
    """Returns the split's name as it is stored: "dev" also finds "validation"."""
    wanted = split if split in present else SPLIT_OF_PREFIX.get(split, split)
    if wanted in present:
        return wanted
    hint = "pass one of these" if path.is_dir() else "a single file is one split; a folder of files can have several"
    raise ValueError(f"unknown split {split!r}: {str(path)!r} has {sorted(present)}; {hint}")


def _check_suffix(path: Path) -> None:
    """Refuses a file that no reader is for."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"cannot read {str(path)!r}: the suffix {path.suffix!r} is not one of {list(SUFFIXES)}; convert the file, "
            "for instance to JSON Lines, with one object a line"
        )


def _read_rows(path: Path, column_names: Sequence[str] | None) -> "list[Row] | Dataset":
    """Returns the rows of a file, chosen by its suffix."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if suffix in (".csv", ".tsv"):
                return list(_table_rows(file, path, suffix, column_names))
            text = file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 text ({error}): save it again as UTF-8") from error
    if suffix == ".json" and text.lstrip().startswith("["):
        return _json_array(text, path)
    return list(_json_lines(text, path))


def _read_parquet(path: Path) -> "Dataset":
    """Returns a Parquet file as a dataset, in memory: no copy of it is left in a cache folder."""
    import pyarrow.parquet  # type: ignore[import-untyped]
    from datasets import Dataset

    try:
        return Dataset(pyarrow.parquet.read_table(path))
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{str(path)!r} is not a Parquet file ({error}): check how it was written") from error


def _table_rows(file: Iterator[str], path: Path, suffix: str, column_names: Sequence[str] | None) -> Iterator[Row]:
    """Yields the rows of a CSV or TSV file. Every cell stays text; a TSV has no quoting, a tab ends a cell."""
    if suffix == ".tsv":
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(file, strict=True)
    try:
        names = list(column_names) if column_names is not None else next(reader, [])
        if len(set(names)) < len(names):
            raise ValueError(f"{str(path)!r}, line 1: two columns have the same name in {names}: rename one")
        for cells in reader:
            if cells and len(cells) != len(names):
                raise ValueError(
                    f"{str(path)!r}, line {reader.line_num}: {len(cells)} cells, but there are {len(names)} "
                    f"columns {names}: quote cells that hold the separator, or use JSON Lines"
                )
            if cells:
                yield dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise ValueError(f"{str(path)!r}, line {reader.line_num}: malformed ({error}): mend that line") from error


def _json_array(text: str, path: Path) -> list[Row]:
    """Returns the objects of a JSON file that is one array; an array of texts becomes a column `text`."""
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{str(path)!r}, line {error.lineno}"
        raise ValueError(f"{where}: malformed JSON ({error.msg}): mend that line") from error
    except RecursionError as error:
        raise ValueError(f"{str(path)!r}: {_TOO_DEEP}") from error
    if all(isinstance(row, str) for row in rows):
        return [{"text": row} for row in rows]
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{str(path)!r}, row {number} (the first is 0): {row!r} is not an object with columns")
    return rows


def _json_lines(text: str, path: Path) -> Iterator[Row]:
    """Yields the objects of a JSON Lines text; blank lines are passed over."""
    # Not str.splitlines, which also breaks at U+2028 and others that JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{str(path)!r}, line {number}: malformed JSON ({error.msg} at column {error.colno}): every line must "
                f'be one object, such as {{"prompt": "..."}}; it begins with {line[:60]!r}'
            ) from error
        except RecursionError as error:
            raise ValueError(f"{str(path)!r}, line {number}: {_TOO_DEEP}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{str(path)!r}, line {number}: {line[:60]!r} is not an object with columns")
        yield row


def _to_dataset(rows: "list[Row] | Dataset", path: Path) -> "Dataset":
    """Returns the rows as a dataset with the union of their columns; a column that a row lacks is null there."""
    import pyarrow
    from datasets import Dataset

    if not isinstance(rows, list):
        return rows
    # Not Dataset.from_list: a column that only later rows have must not be lost.
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    try:
        return Dataset.from_dict(columns)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise ValueError(_mixed_types(columns, path)) from error
    except (OverflowError, UnicodeError, pyarrow.ArrowException) as error:  # 10**40, half of a surrogate pair
        raise ValueError(f"{str(path)!r} has a value that no column can hold ({error}): write it as text") from error


def _mixed_types(columns: dict[str, list[Any]], path: Path) -> str:
    """Returns the sentence that names the column whose values are of several types."""
    for name, values in columns.items():
        first = next((value for value in values if value is not None), None)
        for number, value in enumerate(values):
            if value is not None and type(value) is not type(first):
                return (
                    f"{str(path)!r}, row {number} (the first is 0): column {name!r} holds a {type(value).__name__}, "
                    f"{value!r}, but a {type(first).__name__} in earlier rows: use one type for the whole column"
                )
    return f"{str(path)!r}: a column holds nested values of several types: use one type for the whole column"
