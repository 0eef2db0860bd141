"""The embedded task: its corpus is the same everywhere, its model loads offline."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmrl.data import demo_model_path, demo_rows, load_prompts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demo_model_path(), local_files_only=True)


def test_the_first_rows_are_the_same_on_every_machine():
    assert demo_rows("train")[0] == {
        "prompt": "trail[Thistle Track] length[6 km] climb[steep] season[autumn] dogs[yes] ->",
        "references": [
            "Thistle Track is a demanding walk of 6 km. It is best in autumn. Bring your dog.",
            "Thistle Track is a demanding walk of 6 km. Go in autumn, and you can take your dog.",
            "Thistle Track is a steep 6 km walk. Autumn is the best time to go. Dogs may come along.",
            "Try Thistle Track, a steep 6 km path. Come in autumn. Bring your dog.",
            "Thistle Track is a steep walk of 6 km. It is best in autumn. Dogs may come along.",
            "Try Thistle Track, a steep 6 km path. Come in autumn. You can take your dog.",
        ],
        "mr": "trail[Thistle Track] length[6 km] climb[steep] season[autumn] dogs[yes]",
    }


def test_rows_are_the_same_in_every_call_and_may_be_changed_by_the_caller():
    rows = demo_rows("test")
    rows[0]["references"].clear()
    again = demo_rows("test")
    assert again[0]["references"] and again == demo_rows("test")


def test_the_splits_are_disjoint_and_of_their_sizes():
    train, test = ({row["mr"] for row in demo_rows(split)} for split in ("train", "test"))
    assert len(train) == 2000 and len(test) == 250
    assert not train & test


def test_every_row_has_four_to_six_different_references_with_every_name_and_number_of_the_record():
    for row in demo_rows("train") + demo_rows("test"):
        assert row["prompt"] == row["mr"] + " ->"
        assert 4 <= len(set(row["references"])) == len(row["references"]) <= 6
        record = dict(part.split("[") for part in row["mr"].removesuffix("]").split("] "))
        for text in row["references"]:
            assert text[0].isupper() and text.endswith(".")
            lower = text.lower()
            for slot in record.keys() - {"climb", "dogs"}:
                assert record[slot].lower() in lower, (slot, text)
            assert ("dog" in lower) == ("dogs" in record)


def test_articles_and_spaces_are_those_of_english():
    texts = " ".join(text for row in demo_rows("train") for text in row["references"])
    assert " a easy " not in texts and " an easy " in texts and " an up and down " in texts
    assert "  " not in texts and " ," not in texts and " ." not in texts


def test_an_unknown_split_of_the_demo_is_refused_with_those_there():
    with pytest.raises(ValueError, match=r"The split must be one of \['test', 'train'\] in 'demo', got 'dev'"):
        load_prompts("demo", split="dev")


def test_load_prompts_gives_the_demo_by_default():
    rows = load_prompts(max_rows=3)
    assert rows.column_names == ["prompt", "references", "mr"]
    assert rows.to_list() == demo_rows("train")[:3]


def test_importing_the_data_room_loads_nothing_heavy():
    heavy = "('torch', 'datasets', 'transformers', 'trl')"
    code = f"import sys, lmrl.data; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_data_is_safetensors_and_under_four_megabytes():
    files = list(demo_model_path().iterdir())
    assert {file.name for file in files} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    assert sum(file.stat().st_size for file in files) < 4_000_000
    assert "/" not in json.loads((demo_model_path() / "tokenizer_config.json").read_text()).get("name_or_path", "")


def test_the_tokenizer_pads_on_the_left_with_a_token_of_its_own_and_knows_every_text(tokenizer):
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side) == ("<|endoftext|>", "<|pad|>", "left")
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    text = " Ærø, 12 km: naïve 🍵\n\tend"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("a ->")["input_ids"] == tokenizer("a ->", add_special_tokens=False)["input_ids"]


def test_prompts_differ_in_length_and_references_have_at_most_forty_tokens(tokenizer):
    rows = demo_rows("train") + demo_rows("test")
    prompts = {len(ids) for ids in tokenizer([row["prompt"] for row in rows])["input_ids"]}
    assert len(prompts) >= 8 and max(prompts) <= 32
    references = tokenizer([" " + text for row in rows for text in row["references"]])["input_ids"]
    assert max(map(len, references)) + 1 <= 40


def test_the_model_loads_offline_and_describes_the_record_up_to_an_eos(tokenizer):
    model = AutoModelForCausalLM.from_pretrained(demo_model_path(), local_files_only=True).eval()
    assert model.config.model_type == "gpt2" and model.dtype == torch.float32
    assert model.num_parameters() < 1_000_000
    assert model.config.resid_pdrop == 0.1
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    rows = demo_rows("test")[:32]
    batch = tokenizer([row["prompt"] for row in rows], return_tensors="pt", padding=True)
    ids = model.generate(**batch, max_new_tokens=40, do_sample=False)[:, batch["input_ids"].shape[1] :]
    assert (ids == tokenizer.eos_token_id).any(dim=1).all()
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    named = [row["mr"].split("[")[1].split("]")[0] in text for row, text in zip(rows, texts, strict=True)]
    assert sum(named) >= 30
