"""Loading prompts: every format and every error."""

import csv
import json
import math

import pytest
from datasets import Dataset

from lmrl.data import load_prompts, to_supervised
from lmrl.data.prompts import make_prompts

ROWS = [
    {"prompt": "a", "references": ["x", "y"], "source": "one"},
    {"prompt": "b", "references": ["z"], "source": "two"},
]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def refusal(*args, error=ValueError, **kwargs):
    with pytest.raises(error) as caught:
        load_prompts(*args, **kwargs)
    return str(caught.value)


def test_json_lines_keep_every_column_and_blank_lines_are_skipped(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "n": 1}\n\n{"prompt": "b\\u2028c", "n": 2}\n')
    assert load_prompts(str(path)).to_list() == [{"prompt": "a", "n": 1}, {"prompt": "b\u2028c", "n": 2}]


@pytest.mark.parametrize("lines", [False, True])
def test_a_json_file_is_an_array_or_lines(tmp_path, lines):
    path = tmp_path / "rows.json"
    path.write_text("\n".join(map(json.dumps, ROWS)) if lines else json.dumps(ROWS, indent=1))
    assert load_prompts(str(path)).to_list() == ROWS


def test_a_column_that_only_a_later_row_has_is_kept(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"prompt": "a"}, {"prompt": "b", "late": "here"}])
    assert load_prompts(path)["late"][:] == [None, "here"]


def test_csv_cells_stay_text(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('\ufeffprompt,reply\n"one, two",NA\n08:10,007\n', encoding="utf-8")
    assert load_prompts(str(path), reference_column="reply").to_list() == [
        {"prompt": "one, two", "references": ["NA"], "reply": "NA"},
        {"prompt": "08:10", "references": ["007"], "reply": "007"},
    ]


def test_a_cell_may_be_longer_than_the_limit_of_csv_which_is_left_as_it_was(tmp_path):
    path = tmp_path / "rows.csv"
    article = "word " * 40_000
    path.write_text(f'prompt,article\na,"{article}"\n')
    limit = csv.field_size_limit()
    assert load_prompts(str(path))["article"][:] == [article]
    assert csv.field_size_limit() == limit == 131_072


@pytest.mark.parametrize("name", ["completions", "prompts", "self", "trainer_state", "image", "images"])
def test_a_column_that_would_be_taken_for_something_else_is_left_out_with_a_warning(tmp_path, name, caplog):
    path = write_lines(tmp_path / "rows.jsonl", [{"prompt": "a", name: "x", "kept": 1}])
    assert load_prompts(path).to_list() == [{"prompt": "a", "kept": 1}]
    assert f"The columns ['{name}'] of '{path}' are left out" in caplog.text
    assert load_prompts(path, reference_column=name)["references"][:] == [["x"]]
    assert load_prompts(path, prompt_column=name)["prompt"][:] == ["x"]


def test_a_tsv_has_no_quoting(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text('prompt\tlabel\n" unclosed\t0\n')
    assert load_prompts(str(path)).to_list() == [{"prompt": '" unclosed', "label": "0"}]


def test_parquet_and_both_kinds_of_saved_folders_load(tmp_path):
    from datasets import Dataset, DatasetDict

    data = Dataset.from_list(ROWS)
    data.to_parquet(tmp_path / "rows.parquet")
    data.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": data.select([0]), "dev": data.select([1])}).save_to_disk(tmp_path / "dict")
    assert load_prompts(str(tmp_path / "rows.parquet")).to_list() == ROWS
    assert load_prompts(str(tmp_path / "saved")).to_list() == ROWS
    assert load_prompts(str(tmp_path / "dict"), split="dev").to_list() == ROWS[1:]
    assert "must be one of ['train']" in refusal(str(tmp_path / "saved"), split="test")
    message = refusal(str(tmp_path / "dict"), split="test")
    assert "got 'test'" in message and "['dev', 'train']" in message


def test_the_names_of_the_files_of_a_folder_are_the_splits(tmp_path):
    write_lines(tmp_path / "train-0.jsonl", ROWS[:1])
    write_lines(tmp_path / "train-1.jsonl", ROWS[1:])
    write_lines(tmp_path / "dev.jsonl", ROWS[1:])
    (tmp_path / "README.md").write_text("not data")
    assert load_prompts(str(tmp_path)).to_list() == ROWS
    assert load_prompts(str(tmp_path), split="validation").to_list() == ROWS[1:]
    assert load_prompts(str(tmp_path), split="dev").to_list() == ROWS[1:]
    message = refusal(str(tmp_path), split="test")
    assert "got 'test'" in message and "['train', 'validation']" in message


def test_a_folder_without_split_names_is_refused_with_what_is_there(tmp_path):
    write_lines(tmp_path / "rows.jsonl", ROWS)
    message = refusal(str(tmp_path))
    assert "rows.jsonl" in message and "Rename the files" in message


def test_a_single_file_is_train_or_what_its_name_begins_with(tmp_path):
    path = write_lines(tmp_path / "dev.jsonl", ROWS)
    assert len(load_prompts(path)) == len(load_prompts(path, split="dev")) == 2
    message = refusal(path, split="test")
    assert "got 'test'" in message and "['train', 'validation']" in message and "folder" in message


def test_a_missing_file_is_named_with_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal("sub/rows.jsonl", error=FileNotFoundError)
    assert str(tmp_path / "sub" / "rows.jsonl") in message and "Check the spelling" in message


def test_an_unknown_name_is_neither_a_file_nor_on_the_hub(tmp_path, monkeypatch):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    message = refusal("nobody/nothing", error=FileNotFoundError)
    assert "'nobody/nothing'" in message and str(tmp_path / "nobody" / "nothing") in message and "hub" in message


def test_unknown_suffixes_and_needless_configurations_are_refused(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("a\n")
    message = refusal(str(path))
    assert "'.txt'" in message and "'.jsonl'" in message and "Convert" in message
    message = refusal(write_lines(tmp_path / "rows.jsonl", ROWS), dataset_config="main")
    assert "'main'" in message and "Leave it out" in message
    assert "'main'" in refusal("demo", dataset_config="main")


def test_malformed_lines_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": \n')
    message = refusal(str(path))
    assert "line 2" in message and "malformed JSON" in message
    path.write_text('{"prompt": "a"}\n["b"]\n')
    message = refusal(str(path))
    assert "line 2" in message and "got ['b']" in message
    array = tmp_path / "rows.json"
    array.write_text('[{"prompt": "a"},\n{"prompt": ]')
    assert "line 2, column 12: malformed JSON" in refusal(str(array))
    array.write_text('[{"prompt": "a"}, 7]')
    assert "row 1 (the first is 0): a row must be an object" in refusal(str(array))


def test_malformed_tables_are_named(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,label\na,0\nb\n")
    message = refusal(str(path))
    assert "line 3: a row must have 2 cells" in message and "got 1" in message and "['prompt', 'label']" in message
    path.write_text("prompt,prompt\na,0\n")
    assert "column names must differ" in refusal(str(path))
    path.write_text('prompt\n"a" b\n')
    assert "line 2: malformed" in refusal(str(path))
    parquet = tmp_path / "rows.parquet"
    parquet.write_text("not parquet")
    assert "must be a Parquet file that `datasets` can read" in refusal(str(parquet))


def test_a_column_of_mixed_types_is_named_with_the_row(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"prompt": "a", "n": 1}, {"prompt": "b", "n": "two"}])
    message = refusal(path)
    assert "row 1" in message and "'n'" in message and "'two'" in message


def test_zero_rows_are_refused(tmp_path):
    for name in ("rows.jsonl", "rows.csv"):
        (tmp_path / name).write_text("")
        assert "at least 1 row, got 0" in refusal(str(tmp_path / name))


def test_max_rows_reads_the_first_rows(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [*ROWS, {"prompt": ""}])
    assert load_prompts(path, max_rows=1).to_list() == ROWS[:1]
    message = refusal(path, max_rows=0)
    assert message == "`max_rows` must be at least 1, got 0."


def test_a_missing_column_is_named_with_the_nearest(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", ROWS)
    message = refusal(path, prompt_column="promt")
    columns = "['prompt', 'references', 'source']"
    assert message == f"`prompt_column` must name one of {columns}, got 'promt'. Did you mean `prompt`?"
    message = refusal(write_lines(tmp_path / "others.jsonl", [{"town": "Bath"}]))
    assert message == (
        "`prompt_column` must name one of ['town'], got 'prompt'. Name the column of the prompts, or make prompts "
        "from columns with `prompt_template`."
    )
    message = refusal(path, reference_column="reference")
    assert "reference_column" in message and "Did you mean `references`?" in message


@pytest.mark.parametrize("prompt", ["", "  \n", None])
def test_an_empty_or_null_prompt_is_refused_with_its_row(tmp_path, prompt):
    path = write_lines(tmp_path / "rows.jsonl", [{"prompt": "a"}, {"prompt": prompt}])
    message = refusal(path)
    assert "row 1" in message and repr(prompt) in message and "drop the row" in message


@pytest.mark.parametrize("references", [[], ["x", ""], ["x", None], None, [" "]])
def test_an_empty_or_null_reference_is_refused_with_its_row(tmp_path, references):
    path = write_lines(tmp_path / "rows.jsonl", [ROWS[0], {"prompt": "b", "references": references}])
    message = refusal(path)
    assert "row 1" in message and repr(references) in message and "'references'" in message and "Fill it in" in message


def test_a_template_fills_in_columns_and_escaped_braces_are_literal(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"customer rating": 5, "mr": "name[{x}]"}])
    rows = load_prompts(path, prompt_template="{{{mr}}} ({customer rating}) ->")
    assert rows["prompt"][:] == ["{name[{x}]} (5) ->"]
    assert rows.column_names == ["prompt", "customer rating", "mr"]


@pytest.mark.parametrize("field", ["{mr.__class__}", "{mr[0]}", "{mr!r}", "{}", "{mr:{mr}}"])
def test_a_template_names_nothing_but_complete_columns(tmp_path, field):
    path = write_lines(tmp_path / "rows.jsonl", [{"mr": "a"}])
    message = refusal(path, prompt_template=field + " ->")
    assert field in message and "plain column name" in message and "Make a column" in message


def test_template_mistakes_are_named(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"mr": "a", "tags": ["t"]}, {"mr": None, "tags": []}])
    message = refusal(path, prompt_template="{mrs} ->")
    assert "got 'mrs'" in message and "Did you mean `mr`?" in message
    message = refusal(path, prompt_template="{mr ->")
    assert "malformed '{mr ->'" in message and "{{" in message
    message = refusal(path, prompt_template="{mr} ->")
    assert "row 1" in message and "'mr'" in message and "None" in message
    message = refusal(path, prompt_template="{tags} ->")
    assert "row 1" in message and "[]" in message


def test_a_list_of_texts_is_joined_by_semicolons(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"triples": ["a | b | c", "d | e | f"]}])
    assert load_prompts(path, prompt_template="{triples} ->")["prompt"][:] == ["a | b | c; d | e | f ->"]
    assert load_prompts(path, prompt_column="triples")["prompt"][:] == ["a | b | c; d | e | f"]


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{words:, } ->", "a, b ->"),
        ("{words:\n}", "a\nb"),
        ("{words: and }.", "a and b."),
        ("{{{words::}}} {words}", "{a:b} a; b"),
    ],
)
def test_a_template_names_what_stands_between_the_texts_of_a_list(tmp_path, template, prompt):
    path = write_lines(tmp_path / "rows.jsonl", [{"words": ["a", "b"]}, {"words": ["c"]}])
    assert load_prompts(path, prompt_template=template)["prompt"][0] == prompt


def test_a_separator_of_what_is_no_list_is_refused_with_its_row(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"mr": "a"}])
    message = refusal(path, prompt_template="{mr:>9} ->")
    assert "`{mr:>9}` of `prompt_template` joins a list" in message
    assert "got 'a' in row 0" in message and "Write {mr}." in message


@pytest.mark.parametrize(("cell", "shown"), [(math.nan, "nan"), (b"abc", "b'abc'")])
def test_a_cell_that_is_no_number_and_no_text_is_not_written_into_a_prompt(cell, shown):
    with pytest.raises(ValueError, match=f"a number, got {shown} in row 0 .*Fill it in, or drop the row"):
        make_prompts(Dataset.from_dict({"x": [cell]}), "{x} ->", "prompt")


def test_a_template_of_which_every_field_is_blank_is_an_empty_prompt(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"mr": "", "hint": "h"}])
    assert load_prompts(path, prompt_template="{mr}{hint} ->")["prompt"][:] == ["h ->"]
    assert "row 0" in refusal(path, prompt_template="{mr} ->")


def test_chats_are_made_of_text_or_taken_as_they_are(tmp_path):
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}
    text = write_lines(tmp_path / "text.jsonl", [{"prompt": "a"}])
    assert load_prompts(text, chat=True)["prompt"][:] == [[{"content": "a", "role": "user"}]]
    assert load_prompts(text, system_prompt="Be brief.")["prompt"][:] == [[system, user]]
    chat = write_lines(tmp_path / "chat.jsonl", [{"prompt": [user]}])
    assert load_prompts(chat)["prompt"][:] == load_prompts(chat, chat=True)["prompt"][:] == [[user]]
    assert load_prompts(chat, system_prompt="Be brief.")["prompt"][:] == [[system, user]]
    both = write_lines(tmp_path / "both.jsonl", [{"prompt": [system, user]}])
    message = refusal(both, system_prompt="Other.")
    assert "row 0" in message and "'Other.'" in message and "Remove one" in message
    broken = write_lines(tmp_path / "broken.jsonl", [{"prompt": [user]}, {"prompt": [{**user, "content": ""}]}])
    message = refusal(broken)
    assert "row 1" in message and "Each message of a chat must be" in message


def test_the_e2e_files_load_completely(data_dir):
    for split, count in (("train", 4862), ("dev", 547)):
        rows = load_prompts(str(data_dir / "data/e2e"), split=split, prompt_template="{mr} ->")
        assert len(rows) == count
        assert rows.column_names == ["prompt", "references", "mr"]
    assert rows[0]["prompt"] == "name[Alimentum], area[city centre], familyFriendly[no] ->"
    assert len(to_supervised(rows)) == 4672
