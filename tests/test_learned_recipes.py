"""The recipes that train rewards: the rewards load what they save, and the printed scores are measured."""

import json
import re
import runpy
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from transformers import BartConfig, BartModel, BertConfig, BertModel, BertTokenizer

from lmrl.arguments import ClassifierArguments, LabelArguments, ModelArguments, PreferenceArguments
from lmrl.cli import parse
from lmrl.cli.report import report_runs
from lmrl.rewards import Classifier, RewardModel

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {
    "train_classifier": (ClassifierArguments, LabelArguments),
    "train_reward_model": (ModelArguments, PreferenceArguments),
}
CONFIGS = {
    **dict.fromkeys(("sst2_classifier", "sst2_minilm"), "train_classifier"),
    **dict.fromkeys(("webnlg_reward_model", "webnlg_minilm"), "train_reward_model"),
}
SHORT = ("--max_steps", "40", "--per_device_train_batch_size", "16", "--learning_rate", "3e-3", "--report_to", "none")
CPU = ("--save_strategy", "no", "--disable_tqdm", "true")


def test_a_classifier_from_scratch_learns_and_is_a_reward(recipe, tmp_path):
    lines = {"good": "1", "bad": "0"}
    rows = [f"w{n} {word} w{n % 7}\t{label}\n" for n in range(60) for word, label in lines.items()]
    rows.append("bad\t0\n")  # so that there is a commonest label
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.tsv").write_text("".join(rows))
    (tmp_path / "data" / "dev.tsv").write_text("good w3\t1\nw4 w1 w2 bad\t0\nw9 w1 good\t1\n")
    options = (
        # The scores are of all rows in their order all the same.
        *("--train_sampling_strategy", "group_by_length", "--dataloader_drop_last", "true"),
        "--dataset_name",
        "data/train.tsv",
        "--eval_dataset_name",
        "data/dev.tsv",
        "--column_names",
        "text",
        "label",
        "--class_names",
        "sad",
        "glad",
    )
    status, out, err = recipe("train_classifier", *options, "--output_dir", "out", *SHORT, *CPU)
    assert status == 0, err
    assert re.search(r"^first text +w0 good w0\nlabel +glad$", out, flags=re.MULTILINE)
    assert re.search(r"on 3 rows: 1\.0000 \[1\.0000, 1\.0000\], macro F1 1\.0000; always 'sad': 0\.3333\.", out)
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["accuracy"]["value"] == 1.0
    assert out.endswith("Report: out/report.html\nThe model is in out\n")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "true label, predicted as" in page and "good w3" in page and "Calibration" in page
    anew = report_runs([tmp_path / "out"], tmp_path / "anew.html").read_text()  # from the files of the run
    assert "true label, predicted as" in anew and "good w3" in anew
    card = (tmp_path / "out" / "README.md").read_text()
    assert "A small model with random weights, trained as a text classifier, with lmrl" in card
    assert "pipeline_tag: text-classification" in card and "base_model" not in card and "reinforcement" not in card
    reward = Classifier(str(tmp_path / "out"), "glad")
    good, bad = reward(completions=["w1 good", "w1 bad"])
    assert good > 0.5 > bad
    assert reward.max_length == 128


@pytest.fixture
def bert_path(tmp_path: Path) -> str:
    """Returns the folder of a tiny random BERT, whose tokenizer has no EOS."""
    signs = [*"abcdefghijklmnopqrstuvwxyz", *"-;>"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *signs, *(f"##{digit}" for digit in "0123456789")]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(vocab=str(tmp_path / "vocab.txt"), model_max_length=64).save_pretrained(tmp_path / "bert")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)
    BertModel(config).save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


def test_a_classifier_may_have_an_encoder_and_a_decoder(recipe, bert_path, tmp_path):
    """BART returns the states of its encoder beside the logits, as T5 does."""
    tokenizer = BertTokenizer.from_pretrained(bert_path, eos_token="[SEP]")
    sizes = {"d_model": 16, "max_position_embeddings": 64, "vocab_size": len(tokenizer)}
    ones = ("layers", "attention_heads", "ffn_dim")
    sizes |= {f"{part}_{size}": 1 for part in ("encoder", "decoder") for size in ones}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    BartModel(BartConfig(**sizes, **ids)).save_pretrained(tmp_path / "bart")
    tokenizer.save_pretrained(tmp_path / "bart")
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{sign},{sign in 'aeiou'}\n" for sign in "abcdef"))
    options = ("--model_name_or_path", "bart", "--dataset_name", "rows.csv", "--eval_rows", "2", "--output_dir", "out")
    status, _, err = recipe("train_classifier", *options, *CPU, "--max_steps", "1", "--report_to", "none")
    assert status == 0, err
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["rows"] == 2


@pytest.mark.parametrize("model", ["scratch", "llama_path", "bert_path"])
def test_a_reward_model_learns_from_grades_and_is_a_reward(model, request, recipe, tmp_path):
    rows = [
        {"record": [f"w{n}", "a"], "text": f"w{n} {word}", "clear": grade, "true": grade}
        for n in range(20)
        for word, grade in (("x", 9), ("y", 5), ("z", 1))
    ]
    (tmp_path / "graded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = model if model == "scratch" else request.getfixturevalue(model)
    options = ("--model_name_or_path", name, "--dataset_name", "graded.jsonl", "--prompt_template", "{record} ->")
    grades = ("--text_column", "text", "--grade_columns", "clear", "true", "--eval_rows", "12")
    status, out, err = recipe("train_reward_model", *options, *grades, "--output_dir", "out", *SHORT, *CPU)
    assert status == 0, err
    found = re.search(
        r"on 12 pairs of 4 prompts: (\S+) \[.*the longer one: 0\.5000, the shorter one: 0\.5000\. Expected cal", out
    )
    assert float(found.group(1)) > 0.8
    assert "reward_model - length [95% CI]" in out and "Report: out/report.html" in out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "trained as a reward model on pairs" in card and "On 12 held-out pairs" in card
    good, bad = RewardModel(str(tmp_path / "out"))(completions=[" w3 x", " w3 z"], prompts=["w3; a ->"] * 2)
    assert good > bad


@pytest.mark.parametrize("name", ["sft", "train_classifier", "train_reward_model"])
def test_rows_longer_than_the_context_are_cut_or_left_out_with_a_warning(name, recipe, gpt2_path, tmp_path, caplog):
    # The tiny GPT-2 has 64 positions, and a word is a token; the length by default is 1,024, of a classifier 128.
    texts = [" ".join("b" * (100 if n == 3 else 4)) for n in range(10)]
    rows = [
        {"prompt": f"w{n}", "references": [text], "text": text, "label": n % 2, "chosen": text, "rejected": "a"}
        for n, text in enumerate(texts)
    ]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ("--model_name_or_path", gpt2_path, "--dataset_name", str(tmp_path), "--output_dir", "out", *CPU)
    status, _, err = recipe(name, *argv, "--max_steps", "2", "--report_to", "none")
    assert status == 0, err
    found = {
        "sft": "`max_length` is 64 tokens: of 10 rows 0 are left out and 1 cut, as they are longer. Raise it",
        "train_classifier": "",
        "train_reward_model": "`max_length` is 64 tokens: of 10 rows 1 are left out and 0 cut, as they are longer.",
    }
    assert found[name] in caplog.text


def test_prompts_that_fill_the_context_are_refused_or_cut_in_a_warm_start(recipe, gpt2_path, tmp_path, caplog):
    rows = [{"prompt": " ".join("a" * length), "references": ["b"]} for length in (64, 3, 3, 3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ("--model_name_or_path", gpt2_path, "--dataset_name", "rows.jsonl", "--eval_dataset_name", "rows.jsonl")
    status, _, err = recipe("sft", *argv, "--output_dir", "out", *CPU)
    assert status == 2 and "got 63, and 1 of 4 prompts are longer" in err
    status, _, err = recipe("sft", *argv, "--output_dir", "out", *CPU, "--max_steps", "1", "--long_prompts", "cut_end")
    assert status == 0 and "Cut off their ends" in caplog.text, err


def test_a_chat_template_that_refuses_a_pair_is_named(recipe, gpt2_path, tmp_path):
    rows = [
        {
            kind: [{"role": "user", "content": f"w{n}"}, {"role": "robot", "content": kind}]
            for kind in ("chosen", "rejected")
        }
        for n in range(4)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = shutil.copytree(gpt2_path, tmp_path / "model")
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'robot' %}{{ raise_exception('No robots') }}{% endif %}a{% endfor %}"
    )
    argv = ("--model_name_or_path", str(model), "--dataset_name", "pairs.jsonl", "--eval_rows", "1")
    status, _, err = recipe("train_reward_model", *argv, "--output_dir", "out", *CPU)
    last = err.splitlines()[-1]
    assert status == 2 and last.startswith("error: A chat template does not accept the messages of a row (No robots).")


@pytest.mark.parametrize("name", RECIPES)
def test_help_names_every_field_and_a_misspelt_one_is_one_line(name, recipe, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = recipe(name, "--help")
    assert (status, err) == (0, "") and len(out.splitlines()) <= 120
    status, out, err = recipe(name, "--help", "all")
    assert (status, err) == (0, "")
    for kind in RECIPES[name]:
        assert all(f"--{field.name}" in out for field in fields(kind) if field.init)
    assert recipe(name, "--datset_name", "x")[2].endswith("Did you mean `--dataset_name`?\n")
    assert recipe(name)[2].endswith("error: `dataset_name` must be a file, a folder or a hub id, got ''.\n")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_page_with_a_command_above(name):
    text = (ROOT / "recipes" / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 60
    assert f"python recipes/{name}.py --help" in text.split('"""')[1]


@pytest.mark.parametrize(("config", "name"), CONFIGS.items())
def test_a_configuration_is_parsed_and_has_a_header(config, name, monkeypatch):
    path = ROOT / "recipes" / "configs" / f"{config}.yaml"
    text = path.read_text()
    assert len(yaml.safe_load(text)) <= 40
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert any(line.startswith("# Tested on: ") for line in header)
    assert any(f"recipes/{name}.py --config" in line for line in header)
    own = runpy.run_path(str(ROOT / "recipes" / f"{name}.py"))
    config_class = own["ClassifierConfig" if name == "train_classifier" else "PreferenceConfig"]
    parse(*RECIPES[name], config_class, argv=["--config", str(path)])


@pytest.mark.parametrize("kind", [ClassifierArguments, LabelArguments, PreferenceArguments])
def test_every_field_has_a_description(kind):
    assert len(fields(kind)) <= 14
    assert all(field.metadata["help"].endswith(".") for field in fields(kind))
