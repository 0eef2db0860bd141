"""The folder of a run: what is in the way of a second one, what `overwrite` removes, and what it leaves alone."""

from argparse import Namespace
from pathlib import Path

import pytest
from accelerate import PartialState

from lmrl.checkpoints import find_checkpoint
from lmrl.experiment import prepare_evaluation, prepare_run
from lmrl.outputs import (
    RUN_FILES,
    STUDY_FILES,
    clear_run_folder,
    clear_study_folder,
    matching,
    remove,
    resume_request,
)
from lmrl.saving import write_manifest

CARD = "---\ntags:\n- trl\n- lmrl\n---\n"


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(CARD if name == "README.md" else name)


def left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("model.safetensors", "config.json"), "model.safetensors"),
        (("adapter_model.safetensors",), "adapter_model.safetensors"),
        (("log.jsonl", "after.json", "before.json"), "before.json, after.json, log.jsonl"),
        (("checkpoint-2/trainer_state.json",), "checkpoint-2"),
        (
            ("scores.json", "report.html", "log.jsonl", "rollouts.jsonl"),
            "scores.json, report.html, log.jsonl and 1 more",
        ),
    ],
)
def test_results_of_an_earlier_run_are_refused(names: tuple[str, ...], shown: str, tmp_path: Path) -> None:
    write(tmp_path, *names)
    with pytest.raises(ValueError) as error:
        clear_run_folder(tmp_path, False, None, {})
    assert (
        f"`output_dir` must be a folder without the results of an earlier run, got '{tmp_path}' with {shown}. "
        in str(error.value)
    )
    assert "--overwrite replaces them; " in str(error.value) and "--resume_from_checkpoint" in str(error.value)
    assert left(tmp_path) == sorted(names)


def test_a_folder_without_results_is_written_into(tmp_path: Path) -> None:
    clear_run_folder(tmp_path / "new", False, None, {})
    write(tmp_path, "notes.txt", "train.jsonl", "config.json", "run.json", "checkpoint-best/model.safetensors")
    (tmp_path / "log.jsonl").write_text("")  # of a run that ended before its first step
    clear_run_folder(tmp_path, False, None, {})


def test_overwriting_removes_the_files_of_a_run_and_no_others(tmp_path: Path) -> None:
    run = (
        *("README.md", "before.json", "after.json", "log.jsonl", "model-00001-of-00002.safetensors", "tokenizer.json"),
        *("checkpoint-10/optimizer.pt", "checkpoint-10/critic/critic.safetensors", "critic/critic.safetensors"),
        *("merged/model.safetensors", "merged/config.json", "_unfinished/checkpoint-11/config.json", "run.json"),
    )
    others = (
        *("notes.txt", "train.jsonl", "merged/notes.txt", "checkpoint-10-good/model.safetensors", "lora.safetensors"),
        *("runs/host/events.out.tfevents", "checkpoint-best/model.safetensors", "trial-0001/after.json"),
    )
    write(tmp_path, *run, *others)
    clear_run_folder(tmp_path, True, None, {})
    assert left(tmp_path) == sorted(others)
    assert not (tmp_path / "critic").exists()


def test_a_readme_that_is_no_model_card_stays(tmp_path: Path) -> None:
    write(tmp_path, "model.safetensors")
    (tmp_path / "README.md").write_text("# My project\n")
    clear_run_folder(tmp_path, True, None, {})
    assert left(tmp_path) == ["README.md"]


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "optimizer.pt")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint-1").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    remove(tmp_path / "out", RUN_FILES)
    assert left(tmp_path) == ["elsewhere/optimizer.pt"]


@pytest.mark.parametrize(
    ("given", "request_made"),
    [
        (None, None),
        *((word, None) for word in ("", "false", "False", False, "no", "none")),
        *((word, "true") for word in (True, "true", "True", "yes")),
        ("latest", "latest"),
        ("runs/A/checkpoint-2", "runs/A/checkpoint-2"),
    ],
)
def test_what_a_run_goes_on_from_is_read_in_one_way(given: str | bool | None, request_made: str | None) -> None:
    assert resume_request(given) == request_made


@pytest.mark.parametrize(
    ("names", "resume", "passes"),
    [
        (("checkpoint-2/a", "model.safetensors"), "latest", True),
        (("checkpoint-2/a", "model.safetensors"), "true", True),
        (("checkpoint-2/trainer_state.json", "model.safetensors"), "{}/checkpoint-2", True),
        (("checkpoint-2/trainer_state.json", "model.safetensors"), "{}-other/checkpoint-2", False),
        (("log.jsonl",), "latest", True),  # killed before the first checkpoint
        (("log.jsonl", "model.safetensors"), "latest", False),  # finished without any
        (("log.jsonl",), "false", False),
    ],
)
def test_a_run_that_goes_on_finds_its_results(
    names: tuple[str, ...], resume: str, passes: bool, tmp_path: Path
) -> None:
    write(tmp_path, *names)
    write(Path(f"{tmp_path}-other"), "checkpoint-2/trainer_state.json")
    if passes:
        clear_run_folder(tmp_path, False, resume.format(tmp_path), {})
    else:
        with pytest.raises(ValueError, match="--overwrite replaces them"):
            clear_run_folder(tmp_path, False, resume.format(tmp_path), {})
    assert left(tmp_path) == sorted(names)


def write_checkpoint(folder: Path) -> None:
    """Makes what is taken for a complete checkpoint."""
    write(folder, "model.bin", "optimizer.pt")
    (folder / "trainer_state.json").write_text('{"global_step": 2}')


def test_a_damaged_checkpoint_is_not_named_as_its_own_remedy(tmp_path: Path) -> None:
    write(tmp_path, "checkpoint-2/a")
    write_checkpoint(tmp_path / "checkpoint-1")
    offered = f"The one before it is complete: --resume_from_checkpoint {tmp_path}/checkpoint-1"
    with pytest.raises(ValueError, match=f"is unfinished: trainer_state.json is missing. {offered}"):
        find_checkpoint(f"{tmp_path}/checkpoint-2", tmp_path)


def test_a_damaged_checkpoint_is_found_before_anything_is_loaded_or_removed(tmp_path: Path) -> None:
    PartialState()  # as the configuration of a trainer makes
    run = tmp_path / "run"
    write_checkpoint(run / "checkpoint-1")
    write_checkpoint(run / "checkpoint-2")
    write_manifest(run / "checkpoint-2")
    (run / "checkpoint-2" / "optimizer.pt").write_text("cut")
    options = {"report_to": [], "run_name": None, "hub_token": None}
    own = Namespace(output_dir=str(run), resume_from_checkpoint=f"{run}/checkpoint-2", overwrite=False, **options)
    other = Namespace(**{**vars(own), "output_dir": str(tmp_path / "other"), "overwrite": True})
    write(tmp_path / "other", "after.json")
    for config in (own, other):
        with pytest.raises(ValueError, match=r"optimizer.pt has 3 bytes of 12\. The one before it is complete: "):
            prepare_run(config)
    assert left(tmp_path / "other") == ["after.json"]
    prepare_run(Namespace(**{**vars(own), "resume_from_checkpoint": "latest"}))


def test_of_several_checkpoints_the_one_with_the_largest_number_is_offered(tmp_path: Path) -> None:
    for step in (10, 9):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    with pytest.raises(
        ValueError, match=f"Another one is complete: --resume_from_checkpoint {tmp_path}/checkpoint-10"
    ):
        find_checkpoint(str(tmp_path), tmp_path)


@pytest.mark.parametrize("resume", [None, "false", "no"])
def test_a_run_from_the_beginning_leaves_the_scores_of_another(resume: str | None, tmp_path: Path) -> None:
    write(tmp_path, "scores/after.json")
    options = {"report_to": [], "run_name": None, "hub_token": None, "overwrite": False}
    config = Namespace(output_dir=str(tmp_path / "run"), resume_from_checkpoint=resume, **options)
    with pytest.raises(ValueError, match=r"`eval_output_dir` must be .* with after\.json"):
        prepare_run(config, Namespace(eval_output_dir=str(tmp_path / "scores")))
    assert left(tmp_path) == ["scores/after.json"]


def test_the_scores_of_a_checkpoint_by_the_name_of_its_folder_are_refused_or_replaced(tmp_path: Path) -> None:
    write(tmp_path, "checkpoint-2.json", "checkpoint-3.json", "[a].json", "a.json")
    eval_args = Namespace(eval_output_dir=str(tmp_path))
    names = (["x"], ["checkpoint-2", "[a]"])
    with pytest.raises(ValueError, match=r"with checkpoint-2\.json, \[a\]\.json\. --overwrite replaces them"):
        prepare_evaluation(eval_args, Namespace(datasets=None, overwrite=False), *names)
    assert prepare_evaluation(eval_args, Namespace(datasets=None, overwrite=True), *names) == {"x": tmp_path}
    assert left(tmp_path) == ["a.json", "checkpoint-3.json"]


@pytest.mark.parametrize("resume", ["latest", "true", "{}/checkpoint-2"])
def test_a_checkpoint_is_not_removed_by_the_run_that_goes_on_from_it(resume: str, tmp_path: Path) -> None:
    write(tmp_path, "checkpoint-2/optimizer.pt")
    with pytest.raises(ValueError, match="`overwrite` must not be set with `resume_from_checkpoint`"):
        clear_run_folder(tmp_path, True, resume.format(tmp_path), {})
    assert left(tmp_path) == ["checkpoint-2/optimizer.pt"]


def test_what_a_run_reads_is_not_removed_by_it(tmp_path: Path) -> None:
    write(tmp_path, "model.safetensors", "merged/model.safetensors", "checkpoint-2/optimizer.pt", "train.jsonl")
    for name, value in (
        ("model_name_or_path", str(tmp_path)),
        ("reference_model_name_or_path", f"{tmp_path}/checkpoint-2"),
        ("rewards", ["bleu", {"reward_model": {"model": f"{tmp_path}/merged"}}]),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must not be in the folder that `overwrite` clears"):
            clear_run_folder(tmp_path, True, None, {name: value})
    assert len(left(tmp_path)) == 4
    others = {"dataset_name": f"{tmp_path}/train.jsonl", "model_name_or_path": "gpt2", "system_prompt": "Be. " * 100}
    clear_run_folder(tmp_path, True, None, others)  # a text may be too long for the name of a file
    assert left(tmp_path) == ["train.jsonl"]


def test_a_study_is_continued_or_removed_and_trials_alone_are_refused(tmp_path: Path) -> None:
    study = ("study.journal", "trial-0000/after.json", "trial-0000/run.log", "kl.svg")
    write(tmp_path, *study, "space.yaml", "trial-notes/a.txt")
    clear_study_folder(tmp_path, False)
    assert len(left(tmp_path)) == 6
    (tmp_path / "study.journal").unlink()
    with pytest.raises(ValueError, match=r"with trial-0000\. --overwrite removes them\. Or name another folder\."):
        clear_study_folder(tmp_path, False)
    clear_study_folder(tmp_path, True)
    assert left(tmp_path) == ["space.yaml", "trial-notes/a.txt"]
    assert matching(tmp_path, STUDY_FILES) == []
