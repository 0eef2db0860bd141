"""The evaluation of a tiny model, and once of a real one."""

import json
import math
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from datasets import Dataset

from lmrl.evaluation import Decoding, Evaluator, evaluate_model, generate_completions, perplexity

ROOT = Path(__file__).parents[2]
ROWS = [
    {"prompt": "a b", "references": ["c d", "e"], "wanted": 3},
    {"prompt": "c", "references": ["f"], "wanted": 0},
    {"prompt": "d e f", "references": ["a b c"], "wanted": 1},
]


def evaluate(model, tokenizer, rows, **settings):
    names = {field.name for field in fields(Decoding)}
    decoding = Decoding(**{"max_new_tokens": 8, **{name: settings[name] for name in names & settings.keys()}})
    others = {name: value for name, value in settings.items() if name not in names}
    return evaluate_model(model, tokenizer, rows, decoding, progress=False, **others)


def wanted_words(*, prompts, completions, wanted, **columns):
    """1 minus the distance from the number of words wanted; `None` where none are."""
    assert sorted(columns) == ["log_extra", "log_metric", "references", "trainer_state"]  # as TRL passes them
    return [None if n == 0 else 1.0 - abs(len(t.split()) - n) for t, n in zip(completions, wanted, strict=True)]


def test_no_rows_raise(model, tokenizer):
    for rows in ([], Dataset.from_list([])):
        with pytest.raises(ValueError, match="`rows` must have at least 1 row, got 0"):
            evaluate(model, tokenizer, rows)


class Rate:
    """A corpus metric: the share of letters that are an a, which is not the mean of the rows' shares."""

    __name__ = "rate"

    def __call__(self, *, completions, **columns):
        return [text.count("a") / max(len(text), 1) for text in completions]

    def corpus_value(self, completions, columns):
        assert list(columns) == ["references", "wanted"]
        return sum(text.count("a") for text in completions) / sum(map(len, completions))


def test_the_corpus_value_of_a_reward_replaces_the_mean_of_its_rows(model, tokenizer):
    result = evaluate(model, tokenizer, ROWS, reward_funcs=[Rate()])
    texts = [completion.text for completion in result.completions]
    score = result.scores["reward/rate"]
    assert score.value == sum(text.count("a") for text in texts) / sum(map(len, texts))
    assert len(score.row_scores) == 3 and score.pooling is None


def test_a_function_logs_in_evaluation_what_it_logs_in_training(model, tokenizer):
    def needs_the_trainer(completions, trainer_state, log_metric, log_extra, **columns):
        assert trainer_state is None and "references" in columns
        log_extra("seen", completions)
        log_metric("rows", len(completions))
        log_metric("rows", 1)
        return [0.5 for _ in completions]

    def takes_the_data_alone(prompts, completions, references, wanted):
        return [float(len(wanted)) for _ in completions]

    def takes_all_as_keywords(completions, **columns):
        columns["log_metric"]("texts", len(completions))
        return [0.25 for _ in completions]

    rewards = [needs_the_trainer, takes_the_data_alone, takes_all_as_keywords]
    result = evaluate(model, tokenizer, ROWS, reward_funcs=rewards)
    assert [result.values[f"reward/{reward.__name__}"] for reward in rewards] == [0.5, 3.0, 0.25]
    assert (result.values["logged/rows"], result.values["logged/texts"]) == (2.0, 3.0)
    assert result.scores["logged/rows"].signature == "logged by needs_the_trainer"


def test_all_metrics_that_apply_are_computed(model, tokenizer):
    result = evaluate(model, tokenizer, ROWS, reward_funcs=[wanted_words], perplexity_model=(model, tokenizer))
    assert list(result.scores) == [
        *("bleu", "bleu_e2e", "nist", "chrf", "ter", "rouge1", "rouge2", "rougeL", "rougeLsum", "meteor", "cider"),
        *("distinct1", "distinct2", "self_bleu", "repetition", "length", "unfinished"),
        *("reward/wanted_words", "perplexity"),
    ]
    prompts = [row["prompt"] for row in ROWS]
    assert result.completions == generate_completions(model, tokenizer, prompts, Decoding(8), progress=False)
    assert result.scores["perplexity"] == perplexity(model, tokenizer, prompts, result.completions)
    first, second, third = result.scores["reward/wanted_words"].row_scores
    words = [len(completion.text.split()) for completion in result.completions]
    assert (first, third) == (1.0 - abs(words[0] - 3), 1.0 - abs(words[2] - 1)) and math.isnan(second)
    assert result.scores["reward/wanted_words"].value == (first + third) / 2
    assert result.decoding["max_new_tokens"] == 8 and result.decoding["do_sample"] is False


def test_a_dataset_is_evaluated_as_a_list_of_its_rows(model, tokenizer):
    assert evaluate(model, tokenizer, Dataset.from_list(ROWS)) == evaluate(model, tokenizer, ROWS)


def test_rows_without_references_have_no_reference_metrics(model, tokenizer):
    rows = [{"prompt": row["prompt"]} for row in ROWS]
    names = ["distinct1", "distinct2", "self_bleu", "repetition", "length", "unfinished"]
    assert list(evaluate(model, tokenizer, rows).scores) == names


def test_row_scores_are_means_over_the_samples_of_a_prompt(model, tokenizer):
    result = evaluate(model, tokenizer, ROWS, do_sample=True, num_samples=4, reward_funcs=[wanted_words])
    assert len(result.completions) == 12
    lengths = [completion.length for completion in result.completions]
    assert result.scores["length"].row_scores == [sum(lengths[i : i + 4]) / 4 for i in (0, 4, 8)]
    assert result.scores["length"].value == pytest.approx(sum(lengths) / 12)
    assert len(result.scores["bleu"].statistics) == 3 and "against:samples" in result.scores["self_bleu"].signature
    assert len(result.scores["bleu"].row_scores) == len(result.scores["reward/wanted_words"].row_scores) == 3


def test_a_reward_gets_the_completions_of_chat_prompts_as_messages(model, tokenizer):
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    seen = []

    def spy(*, prompts, completions, **columns):
        seen.extend(completions)
        return [0.0] * len(completions)

    chat = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    texts = [completion.text for completion in evaluate(model, tokenizer, chat, reward_funcs=[spy]).completions]
    assert seen == [[{"role": "assistant", "content": text}] for text in texts]
    assert texts == [completion.text for completion in evaluate(model, tokenizer, ROWS).completions]


def test_columns_named_like_the_arguments_of_a_reward_are_not_passed_on(model, tokenizer):
    def number(*, prompts, completions, **columns):
        return [len(columns)] * len(completions)

    rows = [{**row, "completions": "x", "prompts": "x", "self": "x", "completion_ids": [1]} for row in ROWS]
    expected = evaluate(model, tokenizer, ROWS, reward_funcs=[number]).scores["reward/number"].value
    assert evaluate(model, tokenizer, rows, reward_funcs=[number]).scores["reward/number"].value == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}], r"Row 0 must have a column `prompt`, got \['text'\]"),
        (
            [ROWS[0], {"prompt": "a"}],
            "`references` must be given for all rows or for none, got .* rows 0 and 1",
        ),
        ([{"prompt": "a", "references": []}], r"`references` of row 0 must be a list of at least 1 text"),
    ],
)
def test_rows_that_lack_a_column_raise(model, tokenizer, rows, message):
    with pytest.raises(ValueError, match=message):
        evaluate(model, tokenizer, rows)


def test_a_row_without_references_is_named_before_anything_is_generated(tokenizer):
    rows = [{"prompt": "a", "references": ["b"]}, {"prompt": "b", "references": []}]
    with pytest.raises(ValueError, match=r"`references` of row 1 must be a list of at least 1 text, got \[\]"):
        evaluate(None, tokenizer, rows, do_sample=True, num_samples=4)


def test_rewards_of_equal_names_or_of_too_few_values_raise(model, tokenizer):
    def short(**columns):
        return [0.0]

    with pytest.raises(ValueError, match="`reward_funcs` must have different names, got 'short' twice"):
        evaluate(model, tokenizer, ROWS, reward_funcs=[short, short])
    with pytest.raises(ValueError, match=r"'short' must return .* got \[0.0\] for a batch of 3"):
        evaluate(model, tokenizer, ROWS, reward_funcs=[short])


def test_an_infinite_reward_is_refused_as_in_training(model, tokenizer):
    """A file of scores could not have it: JSON has no infinity, and it would be read as no score."""

    def endless(**columns):
        return [0.0, None, float("-inf")]

    with pytest.raises(ValueError, match=r"^The reward 'endless' must return finite numbers, .* got -inf for row 2"):
        evaluate(model, tokenizer, ROWS, reward_funcs=[endless])


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["blue"], "`metrics` must be one of bleu, .*, got 'blue'. Did you mean `bleu`?"),
        (["bleu"], "`references` must be given for the metric 'bleu', got None"),
    ],
)
def test_a_metric_that_cannot_be_measured_raises_before_anything_is_generated(tokenizer, metrics, message):
    with pytest.raises(ValueError, match=message):
        evaluate_model(None, tokenizer, [{"prompt": "a"}], Decoding(max_new_tokens=4), metrics=metrics)
    with pytest.raises(ValueError, match=message):
        Evaluator(tokenizer, Dataset.from_list([{"prompt": "a"}]), Decoding(max_new_tokens=4), metrics=metrics)


def test_the_tokens_that_end_a_completion_are_part_of_the_decoding(model, tokenizer):
    model.generation_config.eos_token_id = 2
    found = evaluate_model(model, tokenizer, [{"prompt": "a"}], Decoding(max_new_tokens=4), progress=False)
    assert found.decoding["eos_tokens"] == ["<eos>", "stop"] and found.decoding["max_new_tokens"] == 4


def test_importing_the_evaluation_loads_no_heavy_library():
    code = (
        "import sys, lmrl.evaluation; "
        "print([m for m in ('torch', 'transformers', 'trl', 'datasets', 'sacrebleu', 'rich') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"


@pytest.mark.slow
def test_greedy_e2e_dev_bleu_of_the_shared_model_is_the_published_one(data_dir):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = data_dir / "models/e2e-gpt2-3.7m-sft"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    lines = (data_dir / "data/e2e/dev.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{"prompt": row["mr"] + " ->", "references": row["references"]} for row in map(json.loads, lines)]
    result = evaluate(model, tokenizer, rows, max_new_tokens=100, batch_size=64)
    assert len(result.completions) == 547
    assert result.scores["bleu_e2e"].value == pytest.approx(71.80, abs=0.02)
    assert result.scores["unfinished"].value == 0.0
