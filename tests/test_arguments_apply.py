"""Each argument of `evaluate_gen.py` changes what is evaluated, or is refused: one by one, none left out."""

import json
from dataclasses import fields

import pytest

from lmrl.arguments import CheckpointArguments, ComparisonArguments, HeldOutArguments, ScoringArguments
from lmrl.experiment import load_eval_sets
from lmrl.experiment.systems import SystemEvaluator

ROWS = [{"id": n, "prompt": f"a b {n}", "mr": f"c {n}", "human": f"d {n}", "references": [f"e {n}"]} for n in range(3)]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """Makes a file of rows, another one, and a folder with two held-out splits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "both").mkdir()
    for name, rows in (
        ("rows.jsonl", ROWS),
        ("other.jsonl", ROWS[:2]),
        ("both/test.jsonl", ROWS),
        ("both/dev.jsonl", ROWS[1:]),
    ):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "table.csv").write_text("x,y\nz,w\n")


def rows_of(**changes):
    """Returns the rows that these settings give."""
    arguments = HeldOutArguments(**{"dataset_name": "rows.jsonl", **changes})
    (rows,) = load_eval_sets(arguments, None).values()
    return rows.to_list()


ROW_CHANGES = {
    "dataset_name": ({}, "other.jsonl"),
    "dataset_config": ({}, "a"),
    "column_names": ({"dataset_name": "table.csv", "prompt_column": "x"}, ["x", "q"]),
    "dataset_test_split": ({"dataset_name": "both"}, "dev"),
    "eval_rows": ({}, 2),
    "eval_dataset_name": ({}, "other.jsonl"),
    "prompt_template": ({}, "{mr} ->"),
    "prompt_column": ({}, "mr"),
    "reference_column": ({}, "human"),
    "chat": ({}, True),
    "system_prompt": ({}, "be brief"),
}


@pytest.mark.parametrize("name", [field.name for field in fields(HeldOutArguments)])
def test_a_setting_of_the_rows_changes_them_or_is_refused(name, llama_path):
    if name in ("max_prompt_length", "long_prompts"):  # read with the tokenizer of the first checkpoint
        limit = {"max_prompt_length": 2}
        evaluator = SystemEvaluator({"a": llama_path}, {}, decoding(), [], perplexity_model=None, device=None)
        arguments = HeldOutArguments(dataset_name="rows.jsonl", **limit)
        with pytest.raises(ValueError, match="`max_prompt_length` must be at least the length of each prompt"):
            evaluator.fit(load_rows(arguments), arguments)
        cut = HeldOutArguments(dataset_name="rows.jsonl", **limit, long_prompts="cut_end")
        assert list(evaluator.fit(load_rows(cut), cut)["prompt"]) == ["a b"] * 3
        return
    start, value = ROW_CHANGES[name]
    before = rows_of(**start)
    if name == "dataset_config":
        with pytest.raises(ValueError, match="`dataset_config` must not be set"):
            rows_of(**start, **{name: value})
    else:
        assert rows_of(**{**start, name: value}) != before


def load_rows(arguments):
    (rows,) = load_eval_sets(arguments, None).values()
    return rows


def decoding(scoring=None, comparison=None):
    from lmrl.evaluation import Decoding

    scoring = scoring or ScoringArguments()
    comparison = comparison or ComparisonArguments()
    return Decoding(**scoring.decoding(8), **comparison.sampling(scoring.eval_do_sample))


def test_settings_of_decoding_and_of_loading_are_applied():
    assert decoding(ScoringArguments(eval_max_new_tokens=5)).max_new_tokens == 5
    assert decoding(ScoringArguments(eval_batch_size=5)).batch_size == 5
    assert decoding(ScoringArguments(eval_num_beams=5)).num_beams == 5
    comparison = {"eval_num_samples": 3, "eval_temperature": 0.5, "eval_seed": 7, "chat_template_kwargs": '{"a": 1}'}
    made = decoding(ScoringArguments(eval_do_sample=True), ComparisonArguments(**comparison))
    found = (made.do_sample, made.num_samples, made.temperature, made.seed, made.chat_template_kwargs)
    assert found == (True, 3, 0.5, 7, {"a": 1})
    for name in ("eval_num_samples", "eval_temperature", "eval_seed"):
        with pytest.raises(ValueError, match=f"`{name}` must not be set without `eval_do_sample`"):
            decoding(comparison=ComparisonArguments(**{name: comparison[name]}))
    loading = CheckpointArguments(dtype="bfloat16", attn_implementation="eager").loading()
    assert loading == {"dtype": "bfloat16", "attn_implementation": "eager"}
