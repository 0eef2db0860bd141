"""What a run saves about itself: settings, the rows it held out, and those that it and its start were trained on."""

import gzip
import json
import re
import shutil
from datetime import datetime

import pytest
from datasets import Dataset
from training import make_trainer

from lmrl.arguments import EvaluationArguments
from lmrl.data import fit_prompts, load_splits
from lmrl.evaluation import read_json
from lmrl.experiment import copy_record, read_run, start_run, trained_rows
from lmrl.experiment.runs import ROWS_FILE, find_trained, row_keys
from lmrl.models import load_tokenizer

LETTERS = "abcdefghijklmnop"
ROWS = [{"id": a + b, "prompt": f"{a} {b}", "references": [f"{b} c", f"d {a}"]} for a in LETTERS[:4] for b in LETTERS]
TRAINING = (
    *("--max_steps", "1", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1"),
    *("--report_to", "none", "--dataset_name", "rows.jsonl", "--eval_rows", "10"),
)


def write_rows(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(run, name):
    rows = json.loads(gzip.decompress((run / ROWS_FILE).read_bytes()))
    return rows[name]


def test_a_run_names_its_rows_and_those_of_the_run_that_it_starts_from(recipe, llama_path, tmp_path, caplog):
    """Warm start with one split, reinforcement learning with another: most of the held-out rows are known."""
    write_rows(tmp_path / "rows.jsonl")
    start = ("--model_name_or_path", llama_path, "--output_dir", "runs/sft", "--eval_split_seed", "7")
    assert recipe("sft", *TRAINING, *start)[0] == 0
    short = ("--max_completion_length", "4", "--rewards", "bleu", "rouge1")
    more = (*short, "--model_name_or_path", "runs/sft", "--output_dir", "runs/rl", "--save_steps", "1")
    status, out, err = recipe("reinforce_gen", *TRAINING, *more)
    assert status == 0, err

    train, held_out = load_splits(load_tokenizer(llama_path), None, dataset_name="rows.jsonl", eval_rows=10)
    run = read_run("runs/rl/checkpoint-1")
    assert (run.held_out, run.trained_on["runs/rl"]) == (row_keys(held_out), row_keys(train))
    assert rows_of(tmp_path / "runs" / "rl", "held_out")["ids"] == held_out["id"]
    assert rows_of(tmp_path / "runs" / "rl", "trained_on_ids") == train["id"]
    assert run.settings["rewards"] == {"rewards": ["bleu", "rouge1"]}
    assert run.settings["data"]["eval_rows"] == 10
    assert run.settings["training"]["max_completion_length"] == 4
    of_sft, _ = load_splits(
        load_tokenizer(llama_path), None, dataset_name="rows.jsonl", eval_rows=10, eval_split_seed=7
    )
    assert run.trained_on["runs/sft"] == row_keys(of_sft)
    both = len({*held_out["id"]} & {*of_sft["id"]})
    assert 0 < both < 10
    known = [index for index, row in enumerate(held_out) if row["id"] in of_sft["id"]]
    assert find_trained(held_out, trained_rows(["runs/rl"])) == {"runs/sft": known}
    warning = f"{both} of 10 rows were trained on, by runs/sft. Its scores are not held out."
    assert f"Warning: before: {warning}\nWarning: after: {warning}\n" in out
    assert f"<li>after: {warning}</li>" in (tmp_path / "runs" / "rl" / "report.html").read_text()
    assert f"- after: {warning}" in (tmp_path / "runs" / "rl" / "README.md").read_text()
    evaluation = read_json("runs/rl/before.json")
    assert evaluation.trained_on == {"runs/sft": [evaluation.row_ids[index] for index in known]}
    assert f"{both} of 10 held-out rows are training rows of runs/sft." in caplog.text

    shutil.copytree("runs/rl/checkpoint-1", "elsewhere")
    assert trained_rows(["elsewhere"]) == {}
    copy_record("runs/rl/checkpoint-1", "elsewhere")
    assert trained_rows(["elsewhere"]) == trained_rows(["runs/rl"])
    with pytest.raises(ValueError, match=r"`run` must be the folder of a run, .* got 'runs'"):
        read_run("runs")
    (tmp_path / "elsewhere" / ROWS_FILE).write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"elsewhere/rows.json.gz' must be a JSON file that a run wrote"):
        read_run("elsewhere")


def test_rows_are_known_by_what_they_teach_in_any_file_and_order(llama_path):
    rows = Dataset.from_list(ROWS)
    moved = rows.select(range(len(rows) - 1, -1, -1)).remove_columns("id")
    assert row_keys(moved) == row_keys(rows)[::-1]
    chats = [
        {"prompt": [{"role": "system", "content": "be brief"}, {"role": "user", "content": f" {row['prompt']}\n"}]}
        for row in ROWS
    ]
    assert find_trained(Dataset.from_list(chats), {"x": row_keys(rows)}) == {"x": list(range(64))}
    others = Dataset.from_list([{"prompt": "a a", "references": ["other"]}, {"prompt": "a q", "references": ["b c"]}])
    assert find_trained(others, {"x": row_keys(rows), "y": []}) == {"x": [0]}
    cut = fit_prompts(rows, load_tokenizer(llama_path), 1, "cut")
    assert list(cut["prompt"]) == [row["prompt"][1:] for row in ROWS]
    assert row_keys(cut) == row_keys(rows)


def test_a_run_samples_at_its_temperature_again(recipe, llama_path, tmp_path):
    write_rows(tmp_path / "rows.jsonl")
    argv = ("--model_name_or_path", llama_path, "--output_dir", "runs/rl", "--max_completion_length", "5")
    sampled = ("--temperature", "0.5", "--eval_do_sample", "true")
    status, _, err = recipe("reinforce_gen", *TRAINING, *argv, *sampled, "--rewards", "bleu")
    assert status == 0, err
    usage = "do_sample=True, temperature=0.5, top_k=0, return_full_text=False)"
    assert usage in (tmp_path / "runs" / "rl" / "README.md").read_text()
    again = (
        (("--eval_seed", "0"), 0.5, True),
        (("--eval_seed", "0", "--eval_temperature", "2", "--overwrite"), 2.0, False),
    )
    for given, temperature, is_equal in again:
        status, _, err = recipe("evaluate_gen", "--run", "runs/rl", *given)
        assert status == 0, err
        then, now = (read_json(f"runs/rl/{folder}after.json") for folder in ("", "evaluation/"))
        assert (then.decoding["temperature"], now.decoding["temperature"]) == (0.5, temperature)
        assert (now.completions == then.completions) is is_equal


def test_the_ids_of_rows_may_be_dates_as_in_a_parquet_file(gpt2_path, tmp_path):
    trainer = make_trainer("reinforce", gpt2_path, tmp_path)
    rows = Dataset.from_list([{"prompt": "a", "id": datetime(2026, 1, day)} for day in (1, 2)])
    start_run(trainer, rows, rows, EvaluationArguments())
    assert rows_of(tmp_path, "trained_on_ids") == ["2026-01-01 00:00:00", "2026-01-02 00:00:00"]
    assert read_run(tmp_path).held_out == row_keys(rows)


def test_a_run_is_evaluated_again_as_it_was(recipe, llama_path, tmp_path):
    """From one file, some prompts of which were cut: the same rows, and every score that the run had."""
    rows = [{**row, "prompt": f"w1 w2 {row['prompt']}"} if row["id"][0] == "a" else row for row in ROWS]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    cuts = ("--max_prompt_length", "3", "--long_prompts", "cut_end")
    rewards = ("--rewards", "bleu", "rouge1", "--reward_weights", "1", "0.5", "--eval_metrics", "chrf")
    argv = ("--model_name_or_path", llama_path, "--output_dir", "runs/rl", "--max_completion_length", "5")
    status, _, err = recipe("reinforce_gen", *TRAINING, *argv, *cuts, *rewards, "--learning_rate", "0.01")
    assert status == 0, err
    status, out, err = recipe("evaluate_gen", "--run", "runs/rl")
    assert status == 0, err
    for label in ("before", "after"):
        then, now = (read_json(f"runs/rl/{folder}{label}.json") for folder in ("", "evaluation/"))
        assert now.completions == then.completions
        assert now.row_ids == then.row_ids
        assert now.values == pytest.approx(then.values, rel=1e-5, abs=1e-6)
    total = then.scores["reward"]
    parts = [then.scores[f"reward/{name}"].row_scores for name in ("bleu", "rouge1")]
    assert total.row_scores == [bleu + 0.5 * rouge for bleu, rouge in zip(*parts, strict=True)]
    assert total.signature == "1 * bleu + 0.5 * rouge1" and next(iter(then.scores)) == "reward"
    assert now.trained_on == {} and "rows trained on" in out
    assert re.search("Report: runs/rl/evaluation/report.html", out)

    # Flags override: another decoding, fewer rows, other checkpoints, another template of the same rows.
    changed = ("--eval_max_new_tokens", "3", "--eval_rows", "4", "--prompt_template", "{id} {prompt}")
    systems = ("--checkpoints", "x=runs/rl", "y=runs/rl", f"z={llama_path}", "--compare_with", "y")
    argv = (*changed, *systems, "--primary_metrics", "bleu", "--overwrite")
    status, out, err = recipe("evaluate_gen", "--run", "runs/rl", *argv)
    assert status == 0, err
    assert re.search(r"metric +y +x +z +x - y \[95% CI\] +p \(Holm\) +z - y", out)
    # The same model twice: no difference, p is 1, no star anywhere.
    assert re.search(r"\n  bleu .* \+0\.00 \[\+0\.00, \+0\.00\] +1\.000 .*\n\n  exploratory:\n", out)
    assert "corrected for 2 comparisons (Holm); exploratory metrics are not tested" in out
    fewer = read_json("runs/rl/evaluation/x.json")
    assert len(fewer.row_ids) == 4 and max(c.length for c in fewer.completions) <= 3

    # The complete file, without the run's rows: most were trained on, and the run need not be named for that.
    for run in ((), ("--run", "runs/rl")):
        argv = ("--checkpoints", "x=runs/rl", "--datasets", data, "--eval_output_dir", "out", "--overwrite")
        status, out, err = recipe("evaluate_gen", *run, *argv, "--eval_max_new_tokens", "3")
        assert status == 0, err
        assert "Warning: x: 54 of 64 rows were trained on, by runs/rl. Its scores are not held out." in out

    write_rows(data, rows[:40])
    status, _, err = recipe("evaluate_gen", "--run", "runs/rl", "--overwrite")
    assert status == 2 and "must have the 10 held-out rows of runs/rl, got 'rows.jsonl' without some of them" in err
