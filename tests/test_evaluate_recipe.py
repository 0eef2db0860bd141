"""The recipe that compares checkpoints and other systems: published numbers, adapters, errors for bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lmrl.data import demo_model_path

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "evaluate_gen.py"
ROWS = [{"prompt": "a b", "references": ["b c"], "id": 1}, {"prompt": "c", "references": ["d", "e f"], "id": 2}]
SHORT = ("--eval_max_new_tokens", "6", "--eval_num_completions_to_print", "1")


@pytest.fixture
def rows_path(tmp_path):
    """Returns a file with two rows."""
    return write_rows(tmp_path / "rows.jsonl", ROWS)


@pytest.fixture
def checkpoints(llama_path, tmp_path):
    """Returns folders of a model, of another one, and of an adapter on the first, a run's with an = in its name."""
    model = AutoModelForCausalLM.from_pretrained(llama_path)
    torch.manual_seed(1)
    peft = get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM"))
    peft.save_pretrained(tmp_path / "lora")
    peft.merge_and_unload().save_pretrained(tmp_path / "runs" / "lr=1" / "merged")
    for folder in (tmp_path / "lora", tmp_path / "runs" / "lr=1" / "merged"):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(f"{llama_path}/{file}", folder)
    return llama_path, tmp_path / "lora", tmp_path / "runs" / "lr=1" / "merged"


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def found(folder, label):
    return json.loads((folder / f"{label}.json").read_text())


def test_the_e2e_baseline_gets_its_published_scores(recipe, data_dir, tmp_path):
    place = data_dir / "metric_refs" / "e2e_metrics"
    references = [part.split("\n") for part in (place / "devel-conc.txt").read_text().strip().split("\n\n")]
    write_rows(tmp_path / "e2e.jsonl", [{"prompt": "-", "references": golds} for golds in references])
    outputs = f"baseline={place / 'baseline-output.txt'}"
    status, out, err = recipe("evaluate_gen", "--outputs", outputs, "--dataset_name", "e2e.jsonl")
    assert status == 0, err
    scores = found(tmp_path / "runs" / "evaluation", "baseline")["scores"]
    expected = json.loads((place / "expected_scores.json").read_text())["e2e_devel10_baseline"]
    rouge = expected["rouge_score_0.1.2_stemmed_best_ref_f_mean"]
    published = {
        "bleu_e2e": 100 * expected["pymteval_BLEU4_lowercase"],
        "bleu": expected["sacrebleu_13a_cased"],
        "nist": expected["pymteval_NIST5"],
        "cider": expected["coco_CIDEr"],
        "chrf": expected["sacrebleu_chrF2"],
        **{name: 100 * value for name, value in rouge.items()},
    }
    assert {name: scores[name]["value"] for name in published} == pytest.approx(published, abs=1e-9)
    for name, shown in (("bleu_e2e", "72.03"), ("nist", "7.79"), ("cider", "2.28"), ("chrf", "75.80")):
        assert re.search(rf"{name} +{re.escape(shown)} \[", out), out
    assert scores["length"]["signature"] == "unit:words" and "perplexity" not in scores
    assert not (tmp_path / "runs" / "evaluation" / "partial").exists()


def test_checkpoints_adapters_and_texts_are_compared_on_every_data_set(recipe, checkpoints, rows_path, tmp_path):
    base, adapter, merged = checkpoints
    more = write_rows(tmp_path / "more.jsonl", [*ROWS[::-1], {"prompt": "e f g", "references": ["h"], "id": 3}])
    texts = write_rows(tmp_path / "texts.jsonl", [{"id": n, "text": f"w{n}"} for n in (2, 1)])
    argv = ("--checkpoints", f"base={base}", adapter, merged, "--eval_output_dir", "out", *SHORT)
    status, out, err = recipe(
        *("evaluate_gen", *argv, "--datasets", rows_path, f"three={more}", "--eval_metrics", "chrf"),
        *("--win_rate", "chrf", "rougeL", '{"token_f1": {}}', "--compare_with", "lora"),
    )
    assert status == 0, err
    assert out.count("base - lora [95% CI]") == 2
    for folder, count in (("rows.jsonl", 2), ("three", 3)):
        of = {label: found(tmp_path / "out" / folder, label) for label in ("base", "lora", "merged")}
        assert [one["data"]["rows"] for one in of.values()] == [count] * 3
        assert len({one["data"]["hash"] for one in of.values()}) == 1
        assert of["lora"]["completions"] == of["merged"]["completions"] != of["base"]["completions"]
        assert of["base"]["scores"]["kl"]["value"] == 0 < of["lora"]["scores"]["kl"]["value"]
        assert (tmp_path / "out" / folder / "report.html").is_file()
        assert "Win rate" not in of["lora"]["tables"]
        names = [(line["over"], line["by"]) for line in of["merged"]["numbers"]["Win rate"]]
        assert names == [("lora", "reward/chrf"), ("lora", "rougeL"), ("lora", "reward/token_f1")]
        assert {line["ties"] for line in of["merged"]["numbers"]["Win rate"]} == {count}  # the same model
        assert not (tmp_path / "out" / folder / "partial").exists()

    argv = ("--model_name_or_path", base, "--outputs", texts, "--dataset_name", rows_path, *SHORT)
    sampled = ("--eval_do_sample", "true", "--eval_num_samples", "3", "--win_rate", "token_f1")
    status, out, err = recipe("evaluate_gen", *argv, *sampled, "--eval_mbr_metric", "token_f1")
    assert status == 0, err
    other = found(tmp_path / "runs" / "evaluation", "texts.jsonl")
    assert [completion["text"] for completion in other["completions"]] == ["w1", "w2"]
    assert other["scores"]["perplexity"]["value"] > 1 and "kl" not in other["scores"]
    assert other["numbers"]["Win rate"][0]["over"] == Path(base).name and [*other["numbers"]] == ["Win rate"]
    of_samples = found(tmp_path / "runs" / "evaluation", Path(base).name)["numbers"]["Best of k samples"]
    assert [(line["by"], line["k"]) for line in of_samples] == [("reward/token_f1", k) for k in (1, 2, 3)]


def test_texts_of_files_are_as_long_as_those_of_the_first_checkpoint(recipe, llama_path, rows_path, tmp_path):
    """The model of the perplexity has other tokens: by its own a text has another length."""
    argv = ("--dataset_name", rows_path, *SHORT, "--eval_perplexity_model", demo_model_path())
    assert recipe("evaluate_gen", "--model_name_or_path", llama_path, *argv, "--eval_output_dir", "one")[0] == 0
    generated = found(tmp_path / "one", Path(llama_path).name)
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": f"{w} w1 w2"} for w in "ab"])
    status, _, err = recipe("evaluate_gen", "--model_name_or_path", llama_path, "--outputs", texts, *argv)
    assert status == 0, err
    scores = found(tmp_path / "runs" / "evaluation", "texts.jsonl")["scores"]
    assert scores["length"]["row_scores"] == [4.0, 4.0]  # each word is a token, and so is the end
    assert scores["length"]["signature"] == generated["scores"]["length"]["signature"]
    assert scores["perplexity"]["signature"] == generated["scores"]["perplexity"]["signature"]


def test_a_checkpoint_with_other_tokens_has_no_kl(recipe, llama_path, rows_path, tmp_path):
    """As many tokens, but two of them with each other's ids."""
    renumbered = tmp_path / "renumbered"
    shutil.copytree(llama_path, renumbered)
    tokenizer = json.loads((renumbered / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (renumbered / "tokenizer.json").write_text(json.dumps(tokenizer))
    systems = ("--checkpoints", f"a={llama_path}", f"b={renumbered}", f"c={llama_path}")
    out_dir = ("--eval_output_dir", tmp_path / "out")
    status, out, err = recipe("evaluate_gen", *systems, "--dataset_name", rows_path, *SHORT, *out_dir)
    assert status == 0, err
    assert out.count("No kl of") == 1 and "No kl of b: its tokens are not those of a.\n" in out
    assert out.count("different settings") == 1
    assert "Warning: b and a were evaluated with different settings (length). Compare the signatures.\n" in out
    assert ["kl" in found(tmp_path / "out", label)["scores"] for label in "abc"] == [True, False, True]


def test_a_killed_evaluation_goes_on_over_half_a_file(recipe, llama_path, rows_path, tmp_path, monkeypatch):
    argv = ("--model_name_or_path", llama_path, "--dataset_name", rows_path, *SHORT, "--eval_batch_size", "1")
    named = ("--eval_output_dir", "out", *argv)
    assert recipe("evaluate_gen", *argv)[0] == 0
    with monkeypatch.context() as patched:
        patched.setattr("lmrl.evaluation.evaluate.on_main", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert recipe("evaluate_gen", *named)[0] == 130
    (file,) = (tmp_path / "out" / "partial").iterdir()
    file.write_text(file.read_text()[:-9])
    assert recipe("evaluate_gen", *named)[0] == 0
    (label,) = (path.stem for path in (tmp_path / "out").glob("*.json") if path.stem != "report")
    expected = found(tmp_path / "runs" / "evaluation", label)
    assert found(tmp_path / "out", label)["completions"] == expected["completions"]
    assert not (tmp_path / "out" / "partial").exists()


def test_the_command_for_two_processes_writes_what_one_writes(recipe, llama_path, rows_path, tmp_path):
    argv = ["--checkpoints", f"a={llama_path}", "--dataset_name", str(rows_path), *SHORT, "--eval_batch_size", "1"]
    assert recipe("evaluate_gen", *argv)[0] == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    command = [*launch, str(RECIPE), *argv, "--eval_output_dir", "two"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Report: two/report.html") == 1  # and not from each
    assert found(tmp_path / "two", "a") == found(tmp_path / "runs" / "evaluation", "a")
    assert not (tmp_path / "two" / "partial").exists()


def test_one_row_is_scored_and_none_are_refused(recipe, llama_path, rows_path, tmp_path):
    argv = (*SHORT, "--dataset_name", rows_path)
    twice = ("--eval_rows", "1", "--checkpoints", llama_path, f"b={llama_path}")
    status, _, err = recipe("evaluate_gen", *argv, *twice)
    assert status == 0, err
    assert found(tmp_path / "runs" / "evaluation", "b")["data"]["rows"] == 1
    rows_path.write_text("")
    status, _, err = recipe("evaluate_gen", *argv)
    assert status == 2 and "must have at least 1 row, got 0" in err


def test_long_prompts_are_dropped_or_cut_as_in_training(recipe, llama_path, rows_path, tmp_path, caplog):
    argv = ("--model_name_or_path", llama_path, *SHORT, "--dataset_name", rows_path, "--max_prompt_length", "1")
    status, _, err = recipe("evaluate_gen", *argv)
    assert status == 2 and "got 1, and 1 of 2 prompts are longer: the longest has 2 tokens" in err
    for choice, rows, done in (("drop", 1, "Dropped their rows, 1 are left"), ("cut_end", 2, "Cut off their ends")):
        status, _, err = recipe("evaluate_gen", *argv, "--long_prompts", choice, "--overwrite")
        assert status == 0 and done in caplog.text, err
        assert found(tmp_path / "runs" / "evaluation", Path(llama_path).name)["data"]["rows"] == rows
    status, out, err = recipe("evaluate_gen", *argv, "--long_prompts", "drop")
    assert (status, out) == (2, "") and "`eval_output_dir` must be a folder without the results of an earlier" in err
    status, _, err = recipe("evaluate_gen", "--dataset_name", rows_path, "--max_train_rows", "1")
    assert status == 2 and "Unknown argument `--max_train_rows`" in err


def test_errors_are_raised_before_the_generation(recipe, llama_path, gpt2_path, rows_path, tmp_path):
    bare = tmp_path / "bare"
    AutoModelForCausalLM.from_pretrained(gpt2_path).save_pretrained(bare)
    (tmp_path / "short.txt").write_text("a\n")
    (tmp_path / "torn.jsonl").write_text('{"text": "a"}\n{"text": "b')
    two = ("--checkpoints", f"a={llama_path}", f"b={llama_path}")
    for argv, sentence in (
        (("--checkpoints", llama_path, bare), f"got '{bare}', from which no tokenizer could be loaded"),
        (
            ("--checkpoints", llama_path, "a=./no"),
            "`checkpoints` or `model_name_or_path` must be a hub id or an existing folder, got './no'",
        ),
        (
            ("--checkpoints", f"a={llama_path}", "--outputs", "a=short.txt"),
            "`outputs` must have different labels, got 'a' twice.",
        ),
        (
            ("--checkpoints", llama_path, "--datasets", rows_path, "no.jsonl"),
            "`dataset_name` must not be set with `datasets`, got",
        ),
        (
            ("--checkpoints", llama_path, "--model_name_or_path", llama_path),
            "`model_name_or_path` must not be set with `checkpoints`, got",
        ),
        (("--checkpoints", llama_path, "--column_names", "a"), "`column_names` must not be set for"),
        (("--checkpoints", llama_path, "--dataset_test_split", "test"), "`dataset_test_split` must be left out for"),
        (("--checkpoints", llama_path, "--eval_temperature", "1.0"), "`eval_temperature` must not be set without"),
        (("--checkpoints", llama_path, "--datasets", rows_path), "`dataset_name` must not be set with `datasets`"),
        (
            ("--checkpoints", llama_path, "--eval_dataset_name", rows_path),
            "`dataset_name` must not be set with `",
        ),
        (
            ("--checkpoints", llama_path, "--system_prompt", "a", "--chat", "false"),
            "`chat` must be true with `",
        ),
        (("--checkpoints", llama_path, "--compare_with", "b"), "`compare_with` must be one of"),
        (("--checkpoints", f"a={llama_path}", "--primary_metrics", "bleau"), "Did you mean `bleu`?"),
        (("--checkpoints", llama_path, "--eval_metrics", "chrf", "chrf"), "different names, got 'chrf' twice"),
        (("--checkpoints", llama_path, "--win_rate", "bleu"), "`win_rate` must not be set with fewer than two"),
        ((*two, "--win_rate", "distinct1"), "must be of a score that each text has, got 'distinct1'"),
        ((*two, "--win_rate", "length"), "must be of a score of which more or less is better, got 'length'"),
        ((*two, "--win_rate", "reward/chrf"), "`win_rate` must be one of"),
        ((*two, "--win_rate", "bleau"), "A reward must have a known name, got 'bleau'. Did you mean `bleu`?"),
        ((*two, "--eval_tie_tolerance", "1"), "`eval_tie_tolerance` must be left out here, got 1.0"),
        ((*two, "--eval_mbr_metric", "chrf"), "`eval_mbr_metric` must be left out here, got 'chrf'"),
        (
            (*two, "--eval_do_sample", "--eval_num_samples", "2", "--eval_mbr_metric", '{"length": {"target": 3}}'),
            "`eval_mbr_metric` must compare a completion with references",
        ),
    ):
        status, out, err = recipe("evaluate_gen", "--dataset_name", rows_path, *SHORT, *argv)
        assert (status, out) == (2, ""), (argv, out)
        assert err.splitlines()[-1].startswith("error: ") and sentence in err.splitlines()[-1], err
        assert "generating" not in err


def test_texts_alone_take_no_option_of_a_model(recipe, rows_path, tmp_path):
    (tmp_path / "short.txt").write_text("a\n")
    (tmp_path / "torn.jsonl").write_text('{"text": "a"}\n{"text": "b')
    unread = "must not be set without `checkpoints`, got"
    for argv, sentence in (
        (("short.txt",), "short.txt' must have one line for each of 2 rows, got 1"),
        (("torn.jsonl",), "torn.jsonl', line 2: every line must be a JSON object"),
        (("no.txt",), "No such file or directory: 'no.txt'"),
        (("short.txt", "--dtype", "bfloat16"), f"`dtype` {unread} 'bfloat16': it would not be read."),
        (("short.txt", "--dtype", "float32"), f"`dtype` {unread} 'float32'"),  # the default, and given all the same
        (("short.txt", "--load_in_4bit"), f"`load_in_4bit` {unread} True"),
        (("short.txt", "--eval_do_sample"), f"`eval_do_sample` {unread} True"),
        (("short.txt", "--eval_num_beams", "2"), f"`eval_num_beams` {unread} 2"),
        (("short.txt", "--eval_batch_size", "8"), f"`eval_batch_size` {unread} 8"),
        (("short.txt", "--eval_max_new_tokens", "8"), f"`eval_max_new_tokens` {unread} 8"),
        (("short.txt", "--long_prompts", "drop"), f"`long_prompts` {unread} 'drop'"),
        (("short.txt", "--max_prompt_length", "9"), f"`max_prompt_length` {unread} 9"),
    ):
        status, out, err = recipe("evaluate_gen", "--dataset_name", rows_path, "--outputs", *argv)
        assert (status, out) == (2, ""), (argv, out)
        assert err.splitlines()[-1].startswith("error: ") and sentence in err.splitlines()[-1], err


def test_the_lines_before_an_evaluation_of_texts_alone_name_no_completions(recipe, rows_path, tmp_path):
    (tmp_path / "texts.txt").write_text("a\nb\n")
    status, out, err = recipe("evaluate_gen", "--dataset_name", rows_path, "--outputs", "texts.txt")
    assert status == 0, err
    assert out.splitlines()[:2] == ["systems        texts.txt (texts.txt)", "metrics        the usual ones"]
