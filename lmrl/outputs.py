"""The files that a run leaves in its folder, and what a second run into that folder may do to them."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# What a run has achieved, as patterns inside of its folder, the most important first. A folder with one of these is
# not written into a second time.
WEIGHTS = (
    *("model.safetensors", "adapter_model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    *("pytorch_model.bin", "adapter_model.bin"),
)
CHECKPOINTS = ("checkpoint-*",)
SCORES = (
    *("before.json", "after.json", "scores.json", "report.html", "report.json", "seeds.json"),
    *("majority.json", "classifier.json", "length.json", "reward_model.json"),
)
SCORES_OF_TRAINED = ("after.json", "classifier.json", "reward_model.json")
LOGS = ("log.jsonl", "rollouts.jsonl", "trainer_state.json")
RESULTS = (*WEIGHTS, *CHECKPOINTS, *SCORES, *LOGS)

# What lies beside these results, and is removed with them. Trackers keep each run in a place of its own.
_OF_A_MODEL = (
    *("config.json", "generation_config.json", "adapter_config.json", "training_args.bin", "lmrl_files.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "README.md"),
)
RUN_FILES = (
    *(*RESULTS, *_OF_A_MODEL, *(f"merged/{name}" for name in (*WEIGHTS, *_OF_A_MODEL)), "critic/critic.safetensors"),
    *("completions/completions_*.parquet", "run.json", "rows.json.gz", "*.json.part", "*.jsonl.part", "_unfinished"),
)
SEEDS = ("seed-*",)
STUDY = ("study.journal",)
TRIALS = ("trial-*",)
STUDY_FILES = (*STUDY, *TRIALS, "study.journal.lock", "objective.svg", "kl.svg")


def matching(folder: str | Path, patterns: Sequence[str]) -> list[Path]:
    """Returns what matches patterns inside of a folder, in the order of the patterns, then of the numbers in names."""
    found: list[Path] = []
    for pattern in patterns:
        places = [path for path in Path(folder).glob(pattern) if _is_of_run(path, pattern)]
        found += sorted(places, key=lambda path: (len(path.name), path))  # 9 before 10
    return list(dict.fromkeys(found))


def _is_of_run(path: Path, pattern: str) -> bool:
    """Returns whether a match of a pattern is a run's: no copy, no empty file, and a README only as a model card."""
    if pattern in (*CHECKPOINTS, *SEEDS, *TRIALS):
        return path.name.partition("-")[2].isdigit()
    if path.name == "README.md":
        text = path.read_text(encoding="utf-8", errors="replace")
        return text.startswith("---") and "\n- trl\n" in text  # the head of a model card
    return not path.is_file() or path.stat().st_size > 0


def remove(folder: str | Path, patterns: Sequence[str]) -> None:
    """Removes what matches a pattern inside of a folder, and nothing else; links are removed and not followed."""
    for path in matching(folder, patterns):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        if path.parent != Path(folder) and not any(path.parent.iterdir()):
            path.parent.rmdir()


def refuse_results(name: str, folder: str | Path, found: Sequence[Path], remedy: str) -> None:
    """
    Raises a `ValueError` if results were `found` in the folder that the argument `name` names. `remedy` is what the
    user can do other than naming another folder.
    """
    if found:
        shown = ", ".join(path.name for path in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ValueError(
            f"`{name}` must be a folder without the results of an earlier run, got {str(folder)!r} with {shown}{more}."
            f" {remedy} Or name another folder."
        )


def resume_request(value: str | bool | None) -> str | None:
    """
    Returns a value of `resume_from_checkpoint` in one form: `"true"` for the run's newest checkpoint, `"latest"` for
    the same where there is one, a folder, or `None` for a start from the beginning.
    """
    word = str(value).lower()
    if value is None or word in ("", "false", "no", "none"):
        return None
    return {"yes": "true", "true": "true", "latest": "latest"}.get(word, str(value))


def clear_run_folder(folder: str | Path, overwrite: bool, resume: str | None, reads: Mapping[str, Any]) -> None:
    """
    Removes the results of an earlier run from the folder of a run if it is to be overwritten, and otherwise refuses
    them, unless the run goes on from a checkpoint in that folder; `resume` is `resume_from_checkpoint`.

    Raises:
        ValueError: If there are results, or an argument in `reads` (values by name) names what is to be removed.
    """
    request = resume_request(resume)
    goes_on = request in ("true", "latest") or (request is not None and _is_within(request, folder))
    if overwrite:
        if goes_on:
            raise ValueError(
                f"`overwrite` must not be set with `resume_from_checkpoint`, got {resume!r}. One removes the "
                "checkpoints that the other reads: leave one out."
            )
        _check_not_read(folder, reads)
        remove(folder, RUN_FILES)
        return
    checkpoints = matching(folder, CHECKPOINTS)
    if goes_on and (checkpoints or request != "latest"):
        return
    # `latest` starts a run and continues it: what was logged before the first checkpoint is written anew.
    found = matching(folder, (*WEIGHTS, *SCORES) if goes_on else RESULTS)
    further = "there is no checkpoint that --resume_from_checkpoint could go on from."
    if checkpoints:
        number = f"one of its {len(checkpoints)} checkpoints" if len(checkpoints) > 1 else checkpoints[0].name
        further = f"--resume_from_checkpoint goes on from {number} (`latest`: the newest)."
    refuse_results("output_dir", folder, found, f"--overwrite replaces them; {further}")


def clear_study_folder(folder: str | Path, overwrite: bool) -> None:
    """
    Removes the study of a sweep and its trials if it is to be overwritten; otherwise it is continued.

    Raises:
        ValueError: If there are trials without their study, into which new ones would write.
    """
    if overwrite:
        remove(folder, STUDY_FILES)
    elif not matching(folder, STUDY):
        refuse_results("output_dir", folder, matching(folder, TRIALS), "--overwrite removes them.")


def _check_not_read(folder: str | Path, reads: Mapping[str, Any]) -> None:
    """Raises an error for an argument that names a file to be removed, something in it, or the folder around it."""
    removed = matching(folder, RUN_FILES)
    for name, text in ((name, text) for name, value in reads.items() for text in _texts(value)):
        if not os.path.exists(text):  # false also for a text too long for a name, where Path's raises
            continue
        place = Path(text).resolve()
        if any(path.parent.resolve() == place or _is_within(text, path) for path in removed):
            raise ValueError(
                f"`{name}` must not be in the folder that `overwrite` clears, got {text!r}. It would be removed "
                "before it is read: name another `output_dir`."
            )


def _texts(value: Any) -> Iterator[str]:
    """Yields the texts in an argument, those inside of lists and of options too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _is_within(text: str, folder: str | Path) -> bool:
    return Path(text).resolve().is_relative_to(Path(folder).resolve())
