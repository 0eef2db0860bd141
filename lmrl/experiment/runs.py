"""The record of a run: its settings, its held-out rows, and the rows that it was trained on."""

import gzip
import hashlib
import json
import logging
import re
import shutil
import sys
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from lmrl.checkpoints import newest_first
from lmrl.display.wording import setting_text
from lmrl.evaluation import Evaluation
from lmrl.experiment.banner import run_facts, show
from lmrl.experiment.notes import run_notes
from lmrl.log_file import LogFile
from lmrl.outputs import resume_request
from lmrl.rollouts import replace_file
from lmrl.settings import without_secrets
from lmrl.utils import read_adapter_config, shorten
from lmrl.version import package_versions

logger = logging.getLogger(__name__)

SETTINGS_FILE = "run.json"
ROWS_FILE = "rows.json.gz"

# Folders that a run writes inside its own: their record is the run's.
_PARTS_OF_A_RUN = re.compile(r"checkpoint-\d+|merged|best")


@dataclass(frozen=True)
class RunRecord:
    """The facts that a run saved about itself when it began."""

    path: Path  # the folder that was given: the run's output folder, or a checkpoint in it
    folder: Path  # the run's output folder
    recipe: str  # its name
    settings: dict[str, dict[str, Any]]  # arguments by group: `model`, `data`, `rewards`, `evaluation`, `training`
    held_out: list[str]  # the keys ([`row_keys`]) of the held-out rows, in order
    trained_on: dict[str, list[str]]  # keys of training rows by run: first of those that made its start, then its own

    @property
    def name(self) -> str:
        """The last two parts of its folder."""
        return _name(self.folder)

    @property
    def trained_on_before(self) -> dict[str, list[str]]:
        """The keys of the rows that its start model was trained on."""
        return {run: keys for run, keys in self.trained_on.items() if run != self.name}


def start_run(trainer: Any, train_rows: Dataset, eval_rows: Dataset, *argument_groups: Any) -> None:
    """
    Prints the banner of a trainer's run and writes its record into its folder: `run.json` with all settings, and
    `rows.json.gz` with the keys of the rows. `train_rows` and `eval_rows` are the rows as loaded, `argument_groups`
    the recipe's arguments. The training then logs to `log.jsonl`. All processes may call it; the main one writes.

    It warns of held-out rows that are training rows, of this run or of one that made its start model, and, if the run
    is resumed, of settings that have changed.
    """
    if not trainer.is_world_process_zero():
        return
    if not any(isinstance(callback, LogFile) for callback in trainer.callback_handler.callbacks):
        trainer.add_callback(LogFile())
    given = ChainMap(*(vars(group) for group in argument_groups))
    show(run_facts(trainer, train_rows, eval_rows, given), run_notes(trainer, train_rows))
    groups = {str(group._argument_group_name).lower(): vars(group) for group in argument_groups}
    settings = {**groups, "training": trainer.args.to_dict()}
    folder = Path(trainer.args.output_dir)
    resumed = _resumed_from(trainer.args)
    starts = [settings.get("model", {}).get("model_name_or_path"), resumed]
    trained_on = trained_rows(str(start) for start in starts if start)
    own = list(dict.fromkeys([*trained_on.pop(_name(folder), []), *row_keys(train_rows)]))
    trained_on[_name(folder)] = own
    rows = {
        "held_out": {"keys": row_keys(eval_rows), "ids": _ids(eval_rows)},
        "trained_on": [{"run": run, "keys": keys} for run, keys in trained_on.items()],
        "trained_on_ids": _ids(train_rows),
    }
    about = {"recipe": Path(sys.argv[0]).stem, "versions": package_versions(), **without_secrets(settings)}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about, indent=2, default=setting_text, ensure_ascii=False)
    if resumed and (earlier := find_run(resumed)):
        _warn_of_changes(_read(earlier / SETTINGS_FILE), json.loads(text))
    replace_file(folder / SETTINGS_FILE, text.encode())
    replace_file(folder / ROWS_FILE, gzip.compress(json.dumps(rows, default=setting_text).encode(), mtime=0))
    for run, found in find_trained(eval_rows, trained_on).items():
        logger.warning("%d of %d held-out rows are training rows of %s.", len(found), len(eval_rows), run)


def _warn_of_changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Warns of changed settings of a resumed run, except for the trainer's, which compares its own."""
    changed = [
        f"{name}={value} (was {earlier[group][name]})"
        for group in now
        if group not in ("recipe", "versions", "training")
        for name, value in now[group].items()
        if name in earlier.get(group, {}) and earlier[group][name] != value
    ]
    if changed:
        logger.warning("The run began with other settings. Taken: %s.", ", ".join(changed))


def read_run(folder: str | Path) -> RunRecord:
    """
    Returns the record of a run, from its folder or from one of its checkpoints.

    Raises:
        ValueError: If there is no record, or a file of it is damaged.
    """
    place = find_run(folder)
    if place is None:
        raise ValueError(
            f"`run` must be the folder of a run, with {SETTINGS_FILE} and {ROWS_FILE}, got {str(folder)!r}. Runs of "
            "an lmrl before 0.2 have none: give their data set, template and metrics as flags."
        )
    settings = _read(place / SETTINGS_FILE)
    held_out, trained_on = _read_rows(place)
    groups = {name: part for name, part in settings.items() if isinstance(part, dict)}
    return RunRecord(Path(folder), place, str(settings.get("recipe")), groups, held_out, trained_on)


def find_run(path: str | Path) -> Path | None:
    """Returns the folder with the record of the run that wrote a model: the model's, or the one around it."""
    place = Path(path).expanduser()
    if not place.is_dir():
        return None
    place = place.absolute()
    while not (place / ROWS_FILE).is_file():
        if not _PARTS_OF_A_RUN.fullmatch(place.name):
            return None
        place = place.parent
    return place


def copy_record(source: str | Path, target: str | Path) -> None:
    """Copies the record of the run that wrote a model, if there is one, into the folder of a copy of the model."""
    place = find_run(source)
    if place is not None and place != find_run(target):
        for name in (SETTINGS_FILE, ROWS_FILE):
            shutil.copyfile(place / name, Path(target) / name)


def trained_rows(models: Iterable[str]) -> dict[str, list[str]]:
    """
    Returns the keys of the rows that models (folders or hub ids) were trained on, by run; empty if nothing is known.

    They include the rows of the models that training started from, and of an adapter's base.
    """
    found: dict[str, list[str]] = {}
    for model in models:
        base = (read_adapter_config(model) or {}).get("base_model_name_or_path")
        place = find_run(model)
        is_other = bool(base) and Path(str(base)).absolute() != Path(model).absolute()
        earlier = trained_rows([str(base)]) if is_other else {}
        own = {} if place is None else _read_rows(place)[1]
        for run, keys in {**earlier, **own}.items():
            found[run] = list(dict.fromkeys([*found.get(run, []), *keys]))
    return found


def find_trained(rows: Dataset, trained_on: Mapping[str, Iterable[str]]) -> dict[str, list[int]]:
    """
    Returns the indices of the rows with a prompt that was trained on, by run; runs without any are left out.
    `trained_on` is as from [`trained_rows`].
    """
    prompts = [key.partition("-")[0] for key in row_keys(rows)]
    found = {}
    for run, keys in trained_on.items():
        trained = {key.partition("-")[0] for key in keys}
        found[run] = [index for index, prompt in enumerate(prompts) if prompt in trained]
    return {run: indices for run, indices in found.items() if indices}


def with_trained_rows(evaluation: Evaluation, rows: Dataset, trained_on: Mapping[str, Iterable[str]]) -> Evaluation:
    """Returns an evaluation of rows with the ids of those that its checkpoint was trained on, if that is known."""
    if not trained_on:
        return evaluation
    found = find_trained(rows, trained_on)
    ids = {run: [evaluation.row_ids[index] for index in indices] for run, indices in found.items()}
    return replace(evaluation, trained_on=ids)


def row_keys(rows: Dataset) -> list[str]:
    """
    Returns a key for each row, `<hash of the prompt>-<hash of the rest>`, independent of its file and position.

    The prompt is the text before it was cut; a chat's system message and differences of white space do not count. The
    rest is what is learned from a row: references, a chosen and a rejected completion, a label.
    """
    columns = set(rows.column_names)
    prompt_column = next(name for name in ("uncut_prompt", "prompt", "text") if name in columns)
    rest_columns = [name for name in ("references", "chosen", "rejected", "label") if name in columns]
    keys = []
    for row in rows.select_columns([prompt_column, *rest_columns]):
        prompt = _text(row[prompt_column])
        rest = json.dumps([_sorted_texts(row[name]) for name in rest_columns], sort_keys=True)
        keys.append(f"{_hash(prompt, 8)}-{_hash(rest, 4)}")
    return keys


def _text(prompt: Any) -> str:
    """Returns a prompt as text with single spaces; of a chat, the contents of all but the system's messages."""
    if not isinstance(prompt, str):
        messages = [message for message in prompt if message["role"] != "system"]
        prompt = "\n".join(str(message["content"]) for message in messages)
    return " ".join(prompt.split())


def _sorted_texts(value: Any) -> Any:
    is_texts = isinstance(value, list) and all(isinstance(text, str) for text in value)
    return sorted(value) if is_texts else value


def _hash(text: str, size: int) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()


def _ids(rows: Dataset) -> list[Any] | None:
    """Returns the column `id` of the rows, `None` if they have none."""
    return list(rows["id"]) if "id" in rows.column_names else None


def _name(folder: Path) -> str:
    """Returns the name of a run: only the last two parts of its folder, as it may be published with the model."""
    return "/".join(folder.absolute().parts[-2:])


def _resumed_from(args: Any) -> str | None:
    """Returns the checkpoint or the run from which a run is resumed, `None` if it starts from the beginning."""
    request = resume_request(getattr(args, "resume_from_checkpoint", None))
    if request not in ("true", "latest"):
        return request
    return str(args.output_dir) if newest_first(args.output_dir) else None


def _read_rows(place: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Returns the keys of the held-out rows, and of training rows by run, from the folder of a run."""
    rows = _read(place / ROWS_FILE)
    try:
        return rows["held_out"]["keys"], {part["run"]: part["keys"] for part in rows["trained_on"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{str(place / ROWS_FILE)!r} must have the rows of a run, got {shorten(rows)}.") from error


def _read(path: Path) -> Any:
    """Returns the content of a JSON file, which may be compressed with gzip."""
    try:
        content = path.read_bytes()
        return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{str(path)!r} must be a JSON file that a run wrote, got {error}.") from error
