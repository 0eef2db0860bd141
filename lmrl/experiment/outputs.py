"""Checks before anything slow: the folder of a run or of an evaluation, and the trackers."""

import glob
import os
from collections import ChainMap
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from lmrl.checkpoints import find_checkpoint
from lmrl.distributed import on_main
from lmrl.evaluation import CompletionStore
from lmrl.outputs import clear_run_folder, matching, refuse_results, remove, resume_request
from lmrl.utils import check_in

# Trackers that an extra of lmrl installs.
_EXTRAS = ("tensorboard", "trackio", "wandb")

# Arguments that name outputs, not inputs.
_WRITTEN = ("output_dir", "eval_output_dir", "run_name", "resume_from_checkpoint")


def prepare_run(config: Any, *argument_groups: Any) -> None:
    """
    Checks the trackers and the folder of a run, and removes the results of an earlier run with `overwrite`. A
    `hub_token` is moved into the environment, so that no uploaded file, such as `training_args.bin`, contains it.

    All processes must call it, before anything slow. `config` is the trainer's, `argument_groups` are the recipe's
    other arguments; an `eval_output_dir` among them is checked too, and `overwrite` is in one of them or in `config`.

    Raises:
        ValueError: On every process, if a tracker is not installed, there are results of an earlier run, a model or
            file that the run reads would be removed, or no complete checkpoint can be resumed.
    """
    if config.hub_token:
        os.environ["HF_TOKEN"] = config.hub_token
        config.hub_token = None
    check_trackers(config.report_to)
    if config.report_to and config.run_name is None:
        # The scores after training are logged when trackers have ended the run: they find it again by its name.
        config.run_name = f"{Path(config.output_dir).name}-{datetime.now():%Y%m%d-%H%M%S}"
    on_main(lambda: _clear(config, argument_groups))


def _clear(config: Any, argument_groups: Iterable[Any]) -> None:
    given = ChainMap(*(vars(group) for group in (*argument_groups, config)))
    reads = {name: value for name, value in given.items() if name not in _WRITTEN}
    resume = config.resume_from_checkpoint
    overwrite = bool(given["overwrite"])
    if resume_request(resume) is not None:
        find_checkpoint(resume, config.output_dir, warn=lambda _: None)  # training, which looks again, warns
    clear_run_folder(config.output_dir, overwrite, resume, reads)
    if resume_request(resume) is None:
        scores = Path(given.get("eval_output_dir") or config.output_dir)
        if scores.resolve() != Path(config.output_dir).resolve():
            _clear_scores(scores, ("before", "after"), overwrite)


def prepare_evaluation(
    eval_args: Any, compare_args: Any, names: Sequence[str], labels: Sequence[str]
) -> dict[str, Path]:
    """
    Returns the folder of each data set of an evaluation; with `overwrite`, removes earlier results there.

    An interrupted evaluation of the same systems is continued. All processes must call it.

    Args:
        eval_args ([`~lmrl.arguments.ScoringArguments`]), compare_args ([`~lmrl.arguments.ComparisonArguments`]):
            The folder, whether there are several data sets, and whether to overwrite.
        names (list of `str`), labels (list of `str`):
            Labels of the data sets and of the systems.

    Raises:
        ValueError: On every process, if there are scores of one of these systems, or a report.
    """
    place = Path(eval_args.eval_output_dir or "runs/evaluation")
    folders = {name: place / name if compare_args.datasets else place for name in names}
    on_main(lambda: _clear_evaluation(list(folders.values()), labels, compare_args.overwrite))
    return folders


def _clear_evaluation(folders: Sequence[Path], labels: Sequence[str], overwrite: bool) -> None:
    if not any(CompletionStore(folder / "partial", label).exists() for folder in folders for label in labels):
        for folder in folders:
            _clear_scores(folder, labels, overwrite)


def _clear_scores(folder: Path, labels: Iterable[str], overwrite: bool) -> None:
    patterns = [*(f"{glob.escape(label)}.json" for label in labels), "report.html"]
    if overwrite:
        remove(folder, patterns)
    else:
        refuse_results("eval_output_dir", folder, matching(folder, patterns), "--overwrite replaces them.")


def check_trackers(report_to: Iterable[str]) -> None:
    """Raises an error for the first tracker that transformers does not know or whose library is not installed."""
    for tracker in report_to:
        check_in(INTEGRATION_TO_CALLBACK, report_to=tracker)
        try:
            INTEGRATION_TO_CALLBACK[tracker]()
        except (ImportError, RuntimeError) as error:  # transformers' own check
            library = f"lmrl[{tracker}]" if tracker in _EXTRAS else f"its library ({error})"
            raise ValueError(
                f"`report_to` must name trackers that are installed, got {tracker!r}. Install {library}, or leave it "
                "out."
            ) from error
