"""Reading of rows from files, folders of files, folders saved by `datasets`, the hub, and the embedded demo.

JSON, CSV and TSV are read with the standard library: `datasets.load_dataset` infers types (a cell "NA" becomes null,
"08:10" a time), and its errors do not name the line of a file.
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lmrl.data.demo import demo_rows
from lmrl.libraries import Dataset, datasets
from lmrl.utils import parse_json, shorten

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
SPLIT_OF_PREFIX = {"train": "train", "dev": "validation", "val": "validation", "test": "test"}

DEMO = "demo"

LONGEST_CELL = 2**31 - 1  # characters; the default of `csv`, 131,072, refuses long articles

Row = dict[str, Any]
T = TypeVar("T")


def read_split(name: str, config: str | None, split: str, column_names: Sequence[str] | None = None) -> Dataset:
    """
    Returns the rows of one split of a file, a folder, a hub dataset or the demo, at least one.

    The arguments are `dataset_name`, `dataset_config`, `split` and `column_names` of [`~lmrl.data.load_prompts`].

    Raises:
        FileNotFoundError: If there is nothing by that name.
        ValueError: If it cannot be read, has no such split, or the split has no rows.
    """
    rows = _read_split(name, config, split, column_names)
    if not len(rows):
        raise ValueError(f"A dataset must have at least 1 row, got 0 in split {split!r} of {name!r}.")
    return rows


def _read_split(name: str, config: str | None, split: str, column_names: Sequence[str] | None) -> Dataset:
    path = None if name == DEMO else _local_path(name)
    if path is None:
        _check_no_column_names(name, column_names)
    if path is None and name != DEMO:
        return _from_hub(name, datasets.load_dataset, config, split=split)
    if config is not None:
        raise ValueError(f"`dataset_config` must not be set for {name!r}, got {config!r}. Leave it out.")
    if path is None:
        return datasets.Dataset.from_list(demo_rows(split))
    if any((path / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
        _check_no_column_names(name, column_names)
        return _read_saved(path, split)
    return _read_files(path, split, column_names)


def _check_no_column_names(name: str, column_names: Sequence[str] | None) -> None:
    """Raises an error if `column_names` is set for data that ignore it."""
    if column_names is not None:
        raise ValueError(
            f"`column_names` must not be set for {name!r}, got {list(column_names)}: they are for .csv and .tsv "
            "without a header. Leave them out."
        )


def splits_of(name: str, config: str | None) -> set[str]:
    """Returns the names of the splits of a dataset, `"train"` alone for a single file; see [`read_split`]."""
    if name == DEMO:
        return {"train", "test"}
    path = _local_path(name)
    if path is None:
        return set(_from_hub(name, datasets.get_dataset_split_names, config))
    if (path / "dataset_dict.json").is_file():
        return set(json.loads((path / "dataset_dict.json").read_text())["splits"])
    return set(_files_by_split(path)) or {"train"} if path.is_dir() else {"train"}


def _local_path(name: str) -> Path | None:
    """Returns the path of a local dataset, or `None` for a hub id, which is `name` or `owner/name`."""
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or path.suffix.lower() in SUFFIXES:
        raise _not_found(name)
    return None


def _from_hub(name: str, load: Callable[..., T], config: str | None, **options: Any) -> T:
    """Returns the result of a function of `datasets` for a hub dataset, with a clear error if it is not found."""
    try:
        return load(name, config, **options)
    except (FileNotFoundError, ConnectionError) as error:
        raise _not_found(name, f", and the hub failed with {type(error).__name__}: {error}") from error


def _not_found(name: str, hub: str = "") -> FileNotFoundError:
    """Returns the error for a name that is neither a local path nor, as `hub` explains, a dataset on the hub."""
    return FileNotFoundError(
        f"A dataset must be an existing file or folder, or the id of a hub dataset, got {name!r}. There is no file or "
        f"folder {str(Path(name).expanduser().absolute())!r}{hub}. Check the spelling, or the working directory."
    )


def _read_saved(path: Path, split: str) -> Dataset:
    """Returns a split of a folder written by `save_to_disk`, of a `Dataset` or of a `DatasetDict`."""
    saved = datasets.load_from_disk(str(path))
    if isinstance(saved, datasets.Dataset):
        # A dataset saved from a hub dataset keeps the name of its split.
        _stored_name(split, {"train", str(saved.split or "train")}, path)
        return saved
    return saved[_stored_name(split, set(saved), path)]


def _read_files(path: Path, split: str, column_names: Sequence[str] | None) -> Dataset:
    """Returns the rows of a file, or of all files of a split in a folder, in the order of the files' names."""
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"The suffix of a file must be one of {list(SUFFIXES)}, got {path.suffix!r} of {str(path)!r}. Convert the "
            "file, for example to JSON Lines, with one object per line."
        )
    files = _files_by_split(path)
    if not files:
        raise ValueError(
            "The files of a folder must be named train*, dev*, validation* or test* and end in one of "
            f"{list(SUFFIXES)}, got {sorted(file.name for file in path.iterdir())} in {str(path.absolute())!r}. "
            "Rename the files, or pass one file."
        )
    wanted = _stored_name(split, set(files), path)
    parts = [_to_dataset(_read_rows(file, column_names), file) for file in files[wanted]]
    return datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]


def _files_by_split(path: Path) -> dict[str, list[Path]]:
    """Returns the files of each split. A single file is `"train"`, and the split that its name begins with."""
    if path.is_file():
        return {split: [path] for split in ("train", _split_of(path)) if split}
    files: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        split = _split_of(file)
        is_table = file.is_file() or file.suffix.lower() == ".parquet"  # which may be a folder of parts
        if split and is_table and file.suffix.lower() in SUFFIXES:
            files.setdefault(split, []).append(file)
    return files


def _split_of(path: Path) -> str | None:
    """Returns the split that a file's name begins with, or `None`."""
    return next((split for prefix, split in SPLIT_OF_PREFIX.items() if path.name.lower().startswith(prefix)), None)


def _stored_name(split: str, present: set[str], path: Path) -> str:
    """Returns the name under which a split is stored: "validation" for "dev" where there is no "dev"."""
    wanted = split if split in present else SPLIT_OF_PREFIX.get(split, split)
    if wanted in present:
        return wanted
    remedy = "Pass one of these." if path.is_dir() else "A file is one split; a folder of files can have several."
    raise ValueError(f"The split must be one of {sorted(present)} in {str(path)!r}, got {split!r}. {remedy}")


def _read_rows(path: Path, column_names: Sequence[str] | None) -> "list[Row] | Dataset":
    """Returns the rows of a file, read according to its suffix."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv"):
        _check_no_column_names(str(path), column_names)
    if suffix == ".parquet":
        return _read_parquet(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if suffix in (".csv", ".tsv"):
                return list(_table_rows(file, path, suffix, column_names))
            text = file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} must be UTF-8 text, got {error}. Save it again as UTF-8.") from error
    is_array = suffix == ".json" and text.lstrip().startswith("[")
    rows = dict(_json_array(text, path) if is_array else _json_lines(text, path))
    for place, row in rows.items():
        if not isinstance(row, dict):
            raise ValueError(f'{place}: a row must be an object, such as {{"prompt": "..."}}, got {shorten(row)}.')
    return list(rows.values())


def _read_parquet(path: Path) -> Dataset:
    """Returns a Parquet file as a dataset, in memory, without a copy in a cache folder."""
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        return datasets.Dataset(pyarrow.parquet.read_table(path))
    except (ValueError, OSError) as error:  # also of a type that `datasets` does not have, such as a map
        raise ValueError(
            f"{str(path)!r} must be a Parquet file that `datasets` can read, got {error}. Write it again."
        ) from error


def _table_rows(file: Iterator[str], path: Path, suffix: str, column_names: Sequence[str] | None) -> Iterator[Row]:
    """Yields the rows of a CSV or TSV file, every cell as text. In a TSV, quotes are ordinary characters."""
    default_limit = csv.field_size_limit(LONGEST_CELL)
    if suffix == ".tsv":
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(file, strict=True)
    try:
        names = list(column_names) if column_names is not None else next(reader, [])
        if len(set(names)) < len(names):
            place = f"{str(path)!r}, line 1: column names" if column_names is None else "`column_names`"
            raise ValueError(f"{place} must differ, got {names}. Rename one.")
        for cells in filter(None, reader):
            if len(cells) != len(names):
                raise ValueError(
                    f"{str(path)!r}, line {reader.line_num}: a row must have {len(names)} cells, for {names}, got "
                    f"{len(cells)}. Quote cells that contain the separator, or use JSON Lines."
                )
            yield dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise ValueError(f"{str(path)!r}, line {reader.line_num}: malformed ({error}). Correct that line.") from error
    finally:
        csv.field_size_limit(default_limit)  # the limit is global to the process


def _json_array(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Yields the place and the value of each row of a JSON array; an array of texts becomes a column `text`."""
    rows = _parsed(text, str(path), 1)
    only_texts = all(isinstance(row, str) for row in rows)
    for number, row in enumerate(rows):
        yield f"{str(path)!r}, row {number} (the first is 0)", {"text": row} if only_texts else row


def _json_lines(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Yields the place and the value of each line of a JSON Lines text; blank lines are skipped."""
    # Not str.splitlines, which also splits at U+2028 and others that JSON strings may contain.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{str(path)!r}, line {number}", _parsed(line, str(path), number)


def _parsed(text: str, path: str, line: int) -> Any:
    """Returns the value of a JSON text that begins at the given line of a file."""
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        place = f"{path!r}, line {line + error.lineno - 1}, column {error.colno}"
        raise ValueError(f"{place}: malformed JSON ({error.msg}). Correct it: {shorten(text)}.") from error
    except ValueError as error:  # in a JSON array the line is not known
        place = f"{path!r}, line {line}" if "\n" not in text else repr(path)
        raise ValueError(f"{place}: {error}. Remove one of them: {shorten(text)}.") from error
    except RecursionError as error:
        raise ValueError(f"{path!r}, line {line}: lists or objects are nested too deeply. Flatten them.") from error


def _to_dataset(rows: "list[Row] | Dataset", path: Path) -> Dataset:
    """Returns the rows as a dataset with the union of their columns; a column that a row lacks is null there."""
    import pyarrow

    if not isinstance(rows, list):
        return rows
    # Not Dataset.from_list, which drops the columns that only later rows have.
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    try:
        return datasets.Dataset.from_dict(columns)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise ValueError(f"{str(path)!r}{_mixed_types(columns)} Write them as text.") from error
    except (OverflowError, UnicodeError, pyarrow.ArrowException) as error:  # 10**40, half of a surrogate pair
        raise ValueError(f"{str(path)!r} has a value that no column can store ({error}). Write it as text.") from error


def _mixed_types(columns: dict[str, list[Any]]) -> str:
    """Returns the end of the error message: the column whose values have several types, and where."""
    for name, values in columns.items():
        first = next((value for value in values if value is not None), None)
        for number, value in enumerate(values):
            if value is not None and type(value) is not type(first):
                return (
                    f", row {number} (the first is 0): the values of column {name!r} must have one type, got "
                    f"{shorten(value)} after a {type(first).__name__}."
                )
    return ": the nested values of a column must have one type, got several."
