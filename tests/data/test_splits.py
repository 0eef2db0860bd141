"""Training rows and held-out rows, for every kind of source."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lmrl.arguments import DataArguments, HeldOutArguments
from lmrl.data import load_held_out, load_labelled, load_pairs, load_splits
from lmrl.data.sources import splits_of


@pytest.fixture(scope="module")
def tokenizer(gpt2_path: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(gpt2_path)


def write(path: Path, *prompts: str) -> str:
    """Writes a file with a row for each prompt, and returns its path."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return str(path)


def folder(path: Path, **splits: str) -> str:
    """Writes `<split>.jsonl` with a row for each letter, and returns the folder."""
    for split, letters in splits.items():
        write(path / f"{split}.jsonl", *letters)
    return str(path)


def prompts(*datasets: Dataset) -> tuple[str, ...]:
    return tuple("".join(dataset["prompt"]) for dataset in datasets)


def test_a_file_has_one_split_and_a_folder_those_of_its_files(tmp_path: Path) -> None:
    assert splits_of(write(tmp_path / "one" / "test.jsonl", "a"), None) == {"train"}
    assert splits_of(folder(tmp_path / "some", train="a", val="b"), None) == {"train", "validation"}
    both = folder(tmp_path / "more", train="a", **{"train-2": "b", "dev": "c", "test": "d", "other": "e"})
    assert splits_of(both, None) == {"train", "validation", "test"}


def test_files_that_hold_no_rows_are_no_split(tmp_path: Path) -> None:
    name = folder(tmp_path, train="a")
    (tmp_path / "test_readme.md").write_text("not data")
    assert splits_of(name, None) == {"train"}


def test_a_saved_dataset_has_the_splits_it_was_saved_with(tmp_path: Path) -> None:
    rows = Dataset.from_list([{"prompt": "a"}])
    DatasetDict(train=rows, held=rows).save_to_disk(tmp_path / "dict")
    rows.save_to_disk(tmp_path / "single")
    assert splits_of(str(tmp_path / "dict"), None) == {"train", "held"}
    assert splits_of(str(tmp_path / "single"), None) == {"train"}


def test_the_demo_has_its_own_test_split(tokenizer: PreTrainedTokenizerBase) -> None:
    train, held_out = load_splits(tokenizer, None)
    assert (len(train), len(held_out)) == (2000, 250)
    assert not set(train["prompt"]) & set(held_out["prompt"])
    assert prompts(load_held_out(eval_rows=3)) == prompts(held_out.select(range(3)))


def test_the_test_split_is_held_out_and_else_the_validation_split(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    three = folder(tmp_path / "three", train="ab", dev="cd", test="ef")
    two = folder(tmp_path / "two", train="ab", dev="cd")
    assert prompts(*load_splits(tokenizer, None, dataset_name=three)) == ("ab", "ef")
    assert prompts(*load_splits(tokenizer, None, dataset_name=two)) == ("ab", "cd")
    assert prompts(load_held_out(dataset_name=three)) == ("ef",)
    assert prompts(load_held_out(dataset_name=two)) == ("cd",)
    for name in ("dev", "validation"):
        settings = {"dataset_name": three, "dataset_test_split": name}
        assert prompts(*load_splits(tokenizer, None, **settings)) == ("ab", "cd")
        assert prompts(load_held_out(**settings)) == ("cd",)


def test_a_split_that_is_named_is_not_replaced_by_another(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    name = folder(tmp_path, train="ab", dev="cd")
    for call in (lambda **s: load_splits(tokenizer, None, **s), load_held_out):
        with pytest.raises(ValueError, match=r"must be one of \['train', 'validation'\] in .*, got 'hard'"):
            call(dataset_name=name, dataset_test_split="hard")


@pytest.mark.parametrize("load", [load_splits, load_labelled, load_pairs])
def test_settings_of_splits_that_nothing_reads_are_refused(
    load: Callable[..., Any], tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    single = write(tmp_path / "rows.jsonl", *"abcd")
    with_test = folder(tmp_path / "tested", train="ab", test="ef")
    read = (lambda **options: load(tokenizer, None, **options)) if load is load_splits else load
    for options in ({"dataset_name": single}, {"dataset_name": with_test, "eval_dataset_name": single}):
        with pytest.raises(ValueError, match=r"`dataset_test_split` must be left out for .*, got 'hard' with .*rows"):
            read(**options, dataset_test_split="hard")
    if load is load_splits:
        for options in ({"dataset_name": with_test}, {"dataset_name": single, "eval_dataset_name": with_test}):
            with pytest.raises(ValueError, match=r"`eval_split_seed` must be left out where no .*, got 7: there"):
                read(**options, eval_split_seed=7)


@pytest.mark.parametrize("load", [load_splits, load_labelled, load_pairs])
def test_the_split_that_is_trained_on_is_not_held_out(
    load: Callable[..., Any], tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    single = write(tmp_path / "rows.jsonl", *"abcd")
    three = folder(tmp_path / "three", train="ab", dev="cd", test="ef")
    read = (lambda **options: load(tokenizer, None, **options)) if load is load_splits else load
    for options, split in (
        ({"dataset_name": three, "dataset_train_split": "test"}, "test"),
        ({"dataset_name": three, "dataset_train_split": "dev", "dataset_test_split": "validation"}, "validation"),
        ({"dataset_name": single, "dataset_test_split": "train"}, "train"),
    ):
        with pytest.raises(ValueError, match=rf"`dataset_test_split` must be another split than .*, got '{split}'"):
            read(**options)
    if load is load_splits:
        assert prompts(*read(dataset_name=three, dataset_train_split="test", dataset_test_split="dev")) == ("ef", "cd")
        assert prompts(*read(dataset_name=three, dataset_train_split="test", eval_dataset_name=three)) == ("ef", "ef")


def test_another_dataset_is_held_out_by_its_own_splits(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    train = folder(tmp_path / "train", train="ab", dev="cd")
    for other, wanted in (
        (folder(tmp_path / "tested", test="ef"), "ef"),
        (folder(tmp_path / "developed", train="gh", dev="ij"), "ij"),
        (write(tmp_path / "single" / "dev.jsonl", "k", "l"), "kl"),
        (write(tmp_path / "single" / "rows.jsonl", "m", "n"), "mn"),
    ):
        settings = {"dataset_name": train, "eval_dataset_name": other}
        assert prompts(*load_splits(tokenizer, None, **settings)) == ("ab", wanted)
        assert prompts(load_held_out(**settings)) == (wanted,)
        assert prompts(load_held_out(eval_rows=1, **settings)) == (wanted[0],)


def test_without_a_held_out_split_rows_are_split_off(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    letters = "abcdefghijklmnop"
    name = write(tmp_path / "rows.jsonl", *letters)
    train, held_out = load_splits(tokenizer, None, dataset_name=name, eval_rows=3, eval_split_seed=1)
    assert (len(train), len(held_out)) == (13, 3)
    assert sorted([*train["prompt"], *held_out["prompt"]]) == list(letters)
    assert prompts(*load_splits(tokenizer, None, dataset_name=name, eval_rows=3, eval_split_seed=1)) == prompts(
        train, held_out
    )
    assert prompts(*load_splits(tokenizer, None, dataset_name=name, eval_rows=3, eval_split_seed=2)) != prompts(
        train, held_out
    )
    # 100 by default, and at most half
    assert [len(rows) for rows in load_splits(tokenizer, None, dataset_name=name)] == [8, 8]
    many = write(tmp_path / "many.jsonl", *(f"a {number}" for number in range(300)))
    assert [len(rows) for rows in load_splits(tokenizer, None, dataset_name=many)] == [200, 100]


def test_rows_with_the_same_prompt_stay_on_one_side(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    name = write(tmp_path / "rows.jsonl", *("aabbccddeeff"))
    for seed in range(5):
        train, held_out = load_splits(tokenizer, None, dataset_name=name, eval_rows=4, eval_split_seed=seed)
        assert not set(train["prompt"]) & set(held_out["prompt"]) and len(held_out) == 4


def test_more_rows_than_there_are_cannot_be_split_off(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    name = write(tmp_path / "rows.jsonl", *"abcd")
    with pytest.raises(ValueError, match="`eval_rows` must be from 1 to 3, as there are 4 rows, got 4"):
        load_splits(tokenizer, None, dataset_name=name, eval_rows=4)


def test_training_rows_are_cut_after_the_held_out_ones_are_taken(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    name = write(tmp_path / "rows.jsonl", *"abcdefgh")
    full, held_out = load_splits(tokenizer, None, dataset_name=name, eval_rows=2)
    few, same = load_splits(tokenizer, None, dataset_name=name, eval_rows=2, max_train_rows=3)
    assert prompts(few, same) == ("".join(full["prompt"][:3]), *prompts(held_out))
    assert len(load_splits(tokenizer, None, dataset_name=name, eval_rows=2, max_train_rows=99)[0]) == 6


def test_the_smaller_limit_counts_for_both_sides(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    name = folder(tmp_path / "rows")
    write(tmp_path / "rows" / "train.jsonl", "a", "a b", "a b c")
    name = str(tmp_path / "rows")
    write(tmp_path / "rows" / "test.jsonl", "d e f", "d")
    for limits in (
        {"max_length": 2},
        {"max_length": 9, "max_prompt_length": 2},
        {"max_length": None, "max_prompt_length": 2},
    ):
        length = limits.pop("max_length")
        train, held_out = load_splits(tokenizer, length, dataset_name=name, long_prompts="drop", **limits)
        assert (train["prompt"][:], held_out["prompt"][:]) == (["a", "a b"], ["d"])
    train, held_out = load_splits(tokenizer, 2, dataset_name=name, long_prompts="cut")
    assert [text.strip() for text in train["prompt"]] == ["a", "a b", "b c"]
    assert [text.strip() for text in held_out["prompt"]] == ["e f", "d"]
    with pytest.raises(ValueError, match="got 2, and 1 of 3 prompts are longer"):
        load_splits(tokenizer, 2, dataset_name=name)


def test_a_completion_that_fills_the_context_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match=r"Prompts must have room for at least 1 token, got -6\. Raise `max_length`"):
        load_splits(tokenizer, -6)


def test_what_is_not_there_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    for call in (lambda **s: load_splits(tokenizer, None, **s), load_held_out):
        with pytest.raises(FileNotFoundError, match="There is no file or folder"):
            call(dataset_name=str(tmp_path / "no.jsonl"))
        with pytest.raises(FileNotFoundError, match=r"got 'no/such'.*, and the hub failed"):
            call(dataset_name="no/such")


def test_a_setting_that_is_no_field_is_refused_with_the_closest_field(tokenizer: PreTrainedTokenizerBase) -> None:
    for call in (lambda **s: load_splits(tokenizer, None, **s), load_held_out):
        with pytest.raises(TypeError, match=r"got `promt_column`. Did you mean `prompt_column`"):
            call(promt_column="prompt")
        with pytest.raises(TypeError, match=r"fields of DataArguments, got `split`"):
            call(split="test")


def test_every_field_of_the_recipes_arguments_is_accepted(tokenizer: PreTrainedTokenizerBase) -> None:
    train, held_out = load_splits(tokenizer, None, **vars(DataArguments(eval_rows=2, max_train_rows=3)))
    settings = vars(HeldOutArguments(eval_rows=2))
    read_by_fit_prompts = {name: settings.pop(name) for name in ("max_prompt_length", "long_prompts")}
    assert read_by_fit_prompts == {"max_prompt_length": None, "long_prompts": "error"}
    assert (len(train), prompts(load_held_out(**settings))) == (3, prompts(held_out))


@pytest.mark.parametrize("name", ["max_train_rows", "eval_rows"])
def test_zero_rows_are_refused_and_do_not_mean_all(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        load_splits(tokenizer, None, **{name: 0})
