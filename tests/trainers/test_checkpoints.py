"""Checkpoints: a damaged one is named and the one before it offered, a failed one leaves those before it."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from forked import run
from resume_worker import train_until_full
from training import make_trainer

from lmrl.checkpoints import clean_up_unfinished, find_corruption, newest_first, remove_oldest
from lmrl.saving import SaveError
from lmrl.trainers import find_checkpoint

Damage = Callable[[Path], object]


def cut(name: str) -> Damage:
    """Returns a function that takes the second half of a file away."""
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def flip(name: str) -> Damage:
    """Returns a function that changes one bit in the middle of a file."""

    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return change


def lose(name: str) -> Damage:
    """Returns a function that removes a file."""
    return lambda folder: (folder / name).unlink()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, gpt2_path: str) -> Path:
    """Returns the folder of a run with checkpoints 1, 2 and 3; not to be written to."""
    folder = tmp_path_factory.mktemp("run")
    make_trainer("ppo", gpt2_path, folder, save_strategy="steps", save_steps=1, max_steps=3).train()
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Returns a copy of that folder."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


DAMAGES: dict[str, tuple[Damage, str]] = {
    "weights cut short": (cut("model.safetensors"), r"is damaged: model\.safetensors has \d+ bytes of \d+"),
    "a bit of the weights": (flip("model.safetensors"), "is damaged: model.safetensors is not what was saved"),
    "no optimizer": (lose("optimizer.pt"), "is damaged: optimizer.pt is missing"),
    "a bit of the optimizer": (flip("optimizer.pt"), "is damaged: optimizer.pt is not what was saved"),
    "no random states": (lose("rng_state.pth"), "is damaged: rng_state.pth is missing"),
    "our state emptied": (lambda folder: os.truncate(folder / "lmrl_state.json", 0), "lmrl_state.json has 0 bytes of"),
    "the list itself": (cut("lmrl_files.json"), "is damaged: lmrl_files.json cannot be read"),
    "a list that is none": (
        lambda folder: (folder / "lmrl_files.json").write_text('{"files": 1.5}'),
        "is damaged: lmrl_files.json cannot be read",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_offered(damage: str, copied: Path) -> None:
    spoil, sentence = DAMAGES[damage]
    spoil(copied / "checkpoint-3")
    offered = f"The one before it is complete: --resume_from_checkpoint {copied}/checkpoint-2"
    with pytest.raises(ValueError, match=sentence) as refused:
        find_checkpoint(str(copied / "checkpoint-3"), copied)
    assert str(refused.value).startswith(f"The checkpoint {copied}/checkpoint-3 ")
    assert str(refused.value).endswith(offered)


def test_a_checkpoint_that_is_not_the_one_before_is_not_offered_as_such(copied: Path) -> None:
    shutil.rmtree(copied / "checkpoint-1")
    offered = rf"checkpoint-1 is not there\. Another one is complete: --resume_from_checkpoint {copied}/checkpoint-3$"
    with pytest.raises(ValueError, match=offered):
        find_checkpoint(str(copied / "checkpoint-1"), copied)


def test_a_start_beside_the_checkpoints_of_an_earlier_run_is_warned_of(
    copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_checkpoint(None, tmp_path / "new") is None and caplog.text == ""
    assert find_checkpoint(None, copied) is None
    assert f"{copied} has checkpoint-3 of an earlier run, which stays beside this run's checkpoints." in caplog.text
    assert "To continue that run: --resume_from_checkpoint latest." in caplog.text


def test_latest_passes_over_the_damaged_ones_and_names_them(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find_checkpoint("latest", copied) == find_checkpoint(True, copied) == str(copied / "checkpoint-3")
    assert [record.getMessage().partition(" from ")[0] for record in caplog.records] == [
        "[RANK 0] Training goes on"
    ] * 2
    caplog.clear()
    lose("scheduler.pt")(copied / "checkpoint-3")
    flip("model.safetensors")(copied / "checkpoint-2")
    assert find_checkpoint("latest", copied) == str(copied / "checkpoint-1")
    assert "checkpoint-3 is damaged: scheduler.pt is missing" in caplog.text
    assert "checkpoint-2 is damaged: model.safetensors is not what was saved" in caplog.text
    cut("trainer_state.json")(copied / "checkpoint-1")
    with pytest.raises(
        ValueError, match=r"got true, but .* has no complete one\. Leave it out to start from the beginning"
    ):
        find_checkpoint("true", copied)
    with pytest.raises(ValueError, match=r"checkpoint-2 is damaged: .* There is no complete one before it: leave it"):
        find_checkpoint(str(copied / "checkpoint-2"), copied)


def test_latest_starts_from_the_beginning_where_nothing_is_and_a_path_does_not(
    gpt2_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, max_steps=1)
    with pytest.raises(
        ValueError, match=r"`resume_from_checkpoint` must name a checkpoint, got True, but .* has no complete one"
    ):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="checkpoint-7 is not there"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    trainer.train(resume_from_checkpoint="latest")
    assert "has no complete checkpoint yet: training starts from the beginning" in caplog.text
    assert trainer.state.global_step == 1


def test_the_newest_is_the_one_saved_last_whatever_its_number(copied: Path) -> None:
    assert [path.name for path in newest_first(copied)] == ["checkpoint-3", "checkpoint-2", "checkpoint-1"]
    listed = json.loads((copied / "checkpoint-1" / "lmrl_files.json").read_text())
    listed["saved_at"] += 1000  # as of a run that was started anew in the same folder
    (copied / "checkpoint-1" / "lmrl_files.json").write_text(json.dumps(listed))
    assert find_checkpoint("latest", copied) == str(copied / "checkpoint-1")


def test_a_checkpoint_of_another_tool_must_have_what_a_run_needs(copied: Path) -> None:
    for checkpoint in copied.glob("checkpoint-*"):
        (checkpoint / "lmrl_files.json").unlink()
    newest = copied / "checkpoint-3"
    assert find_checkpoint("latest", copied) == str(newest)
    cut("model.safetensors")(newest)
    assert "is damaged: model.safetensors cannot be read" in str(find_corruption(newest))
    lose("optimizer.pt")(newest)
    assert str(find_corruption(newest)).startswith("has no state of the optimizer")
    lose("model.safetensors")(newest)
    assert find_corruption(newest) == "has no weights"
    lose("trainer_state.json")(newest)
    assert find_corruption(newest) == "is unfinished: trainer_state.json is missing"
    assert find_checkpoint("latest", copied) == str(copied / "checkpoint-2")


def test_a_kill_between_the_moves_of_a_checkpoint_saved_again_leaves_it_complete(copied: Path) -> None:
    unfinished = copied / "_unfinished"
    unfinished.mkdir()
    (copied / "checkpoint-3").rename(unfinished / "checkpoint-3")  # complete, not moved yet
    shutil.copytree(copied / "checkpoint-2", unfinished / "removed-checkpoint-3")  # what it was to replace
    shutil.copytree(copied / "checkpoint-2", unfinished / "checkpoint-4")
    lose("lmrl_files.json")(unfinished / "checkpoint-4")  # not complete
    clean_up_unfinished(copied)
    names = ["checkpoint-3", "checkpoint-2", "checkpoint-1"]
    assert [path.name for path in newest_first(copied)] == names
    assert find_corruption(copied / "checkpoint-3") is None
    assert not unfinished.exists()


def test_the_oldest_are_removed_but_not_the_best(copied: Path) -> None:
    remove_oldest(copied, None)
    assert len(newest_first(copied)) == 3
    remove_oldest(copied, 1, copied / "checkpoint-1")
    assert [path.name for path in newest_first(copied)] == ["checkpoint-3", "checkpoint-1"]
    clean_up_unfinished(copied)
    assert not (copied / "_unfinished").exists()
    remove_oldest(copied, 1)
    assert [path.name for path in newest_first(copied)] == ["checkpoint-3"]


def test_the_best_checkpoint_is_remembered_where_it_is(gpt2_path: str, tmp_path: Path) -> None:
    scores = iter([1.0, 3.0, 2.0, 2.5])
    trainer = make_trainer(
        "reinforce", gpt2_path, tmp_path, max_steps=4, save_strategy="steps", save_steps=1, eval_strategy="steps",
        eval_steps=1, save_total_limit=2, load_best_model_at_end=True, metric_for_best_model="score",
        eval_dataset=make_trainer("reinforce", gpt2_path, tmp_path).train_dataset,
        held_out_metrics=lambda policy: {"score": next(scores)},
    )  # fmt: skip
    trainer.train()
    best = tmp_path / "checkpoint-2"
    assert [path.name for path in newest_first(tmp_path)] == ["checkpoint-4", "checkpoint-2"]
    for checkpoint in (best, tmp_path / "checkpoint-4"):
        assert json.loads((checkpoint / "trainer_state.json").read_text())["best_model_checkpoint"] == str(best)
        assert find_corruption(checkpoint) is None
    again = make_trainer("reinforce", gpt2_path, tmp_path)
    again._load_from_checkpoint(str(best))
    for (name, old), new in zip(trainer.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(old, new), name


# -- a checkpoint that cannot be written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "most, reason, processes", [(20_000, "File too large", 2), (200_000, "the disk is full, or a limit is reached", 1)]
)
def test_a_file_that_finds_no_room_ends_the_run_with_a_sentence(
    most: int, reason: str, processes: int, gpt2_path: str, tmp_path: Path
) -> None:
    given = (gpt2_path, tmp_path, processes, most)
    run(train_until_full, *given, out=tmp_path, processes=processes, ends=7)
    folder = tmp_path / "run"
    for rank in range(processes):
        (refused,) = [
            line for line in (tmp_path / f"{rank}.txt").read_text().splitlines() if line.startswith("error:")
        ]
        assert refused.startswith(f"error: {folder}/checkpoint-4 could not be written: ") and reason in refused
        assert refused.endswith(f" {folder}/checkpoint-2, saved before it, is complete.")
    assert find_corruption(folder / "checkpoint-2") is None
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "checkpoint-2",
        "log.jsonl",
        "rollouts.jsonl",
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Returns a folder that is a file system of its own, with little room."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip(f"only a user who may mount can fill a disk: {done and done.stderr}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_leaves_the_checkpoint_before_complete_and_with_room_the_run_goes_on(
    gpt2_path: str, small_disk: Path
) -> None:
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 6}
    with pytest.raises(
        SaveError, match=r"checkpoint-\d could not be written: .*(No space left|disk is full)"
    ) as refused:
        make_trainer("reinforce", gpt2_path, small_disk, **options).train()
    last = newest_first(small_disk)[0]
    assert str(refused.value).endswith(f"{last}, saved before it, is complete.")
    assert find_corruption(last) is None
    for checkpoint in newest_first(small_disk)[1:]:
        shutil.rmtree(checkpoint)
    resumed = make_trainer("reinforce", gpt2_path, small_disk, save_total_limit=1, **options)
    resumed.train(resume_from_checkpoint="latest")
    assert [path.name for path in newest_first(small_disk)] == ["checkpoint-6"]


def test_a_disk_that_turns_read_only_is_named_by_all_that_writes(gpt2_path: str, small_disk: Path) -> None:
    trainer = make_trainer("reinforce", gpt2_path, small_disk)
    trainer.train()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    read_only = "Read-only file system"
    with pytest.raises(SaveError, match=rf"checkpoint-2 could not be written: {read_only} .* No checkpoint was saved"):
        trainer._save_checkpoint(trainer.model, trial=None)
    with pytest.raises(SaveError, match=rf"small could not be written: .*{read_only}"):
        trainer.save_model()
    with pytest.raises(
        ValueError, match=rf"`output_dir` must be a folder .* \({read_only}\)\. Checkpoints and results"
    ):
        make_trainer("reinforce", gpt2_path, small_disk)


def test_a_folder_that_cannot_be_made_is_refused_before_training(gpt2_path: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"may write to, got '.*file/run' \(Not a directory\)"):
        make_trainer("reinforce", gpt2_path, tmp_path / "file" / "run")
