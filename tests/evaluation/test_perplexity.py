"""Perplexity against a token by token computation and a closed form."""

import math

import pytest
import torch

from lmrl.evaluation import Completion, perplexity

PROMPTS = ["a b c d e", "c", "i h g"]
COMPLETIONS = [
    Completion(0, 0, "b c", 3, True),
    Completion(1, 0, "d e f g h i a b", 8, False),
    Completion(1, 1, "", 1, True),
    Completion(2, 0, "a", 1, False),
]


@torch.no_grad()
def log_probs_by_hand(model, tokenizer, prompt, completion):
    ids = tokenizer(prompt)["input_ids"]
    targets = tokenizer(completion.text)["input_ids"] + [tokenizer.eos_token_id] * completion.finished
    found = []
    for target in targets:
        found.append(float(model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[target]))
        ids = [*ids, target]
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_perplexity_equals_a_loop_over_tokens_whatever_the_padding(model, tokenizer, batch_size):
    found = [log_probs_by_hand(model, tokenizer, PROMPTS[c.row], c) for c in COMPLETIONS]
    assert [len(row) for row in found] == [3, 8, 1, 1]
    score = perplexity(model, tokenizer, PROMPTS, COMPLETIONS, batch_size=batch_size)
    assert score.value == pytest.approx(math.exp(-sum(map(sum, found)) / 13), rel=1e-5)
    assert score.row_scores == pytest.approx([math.exp(-sum(row) / len(row)) for row in found], rel=1e-5)
    assert not score.higher_is_better and "eos:where finished" in score.signature


def test_the_perplexity_of_a_uniform_model_is_its_vocabulary_size(model, tokenizer):
    torch.nn.init.zeros_(model.lm_head.weight)
    assert perplexity(model, tokenizer, PROMPTS, COMPLETIONS).value == pytest.approx(12)


def test_a_completion_without_tokens_has_no_perplexity(model, tokenizer):
    empty = Completion(0, 0, "", 1, False)
    assert math.isnan(perplexity(model, tokenizer, PROMPTS, [empty]).value)
    mixed = perplexity(model, tokenizer, PROMPTS, [empty, COMPLETIONS[1]])
    assert math.isnan(mixed.row_scores[0])
    assert mixed.value == pytest.approx(mixed.row_scores[1])


def test_dropout_is_off_and_the_mode_is_restored(model, tokenizer):
    expected = perplexity(model, tokenizer, PROMPTS, COMPLETIONS).value
    model.train()
    assert perplexity(model, tokenizer, PROMPTS, COMPLETIONS).value == expected
    assert model.training


def test_no_completions_raise(model, tokenizer):
    with pytest.raises(ValueError, match="`completions` must have at least 1 row, got 0"):
        perplexity(model, tokenizer, PROMPTS, [])


@pytest.mark.parametrize("end", [5, 50256])
def test_the_end_of_another_tokenizer_counts_as_that_of_the_model(model, tokenizer, end):
    """As an empty text has no other token by which two tokenizers could be distinguished."""
    for text in ("", "b c"):
        ids = tokenizer(text)["input_ids"] if text else []
        found = perplexity(model, tokenizer, PROMPTS, [Completion(0, 0, text, 1, True, token_ids=[*ids, end])])
        assert found.value == perplexity(model, tokenizer, PROMPTS, [Completion(0, 0, text, 1, True)]).value


def test_a_second_end_token_of_the_model_is_scored_as_it_was_generated(model, tokenizer):
    model.generation_config.eos_token_id = [0, 2]
    found = perplexity(model, tokenizer, PROMPTS, [Completion(0, 0, "b", 2, True, token_ids=[4, 2])])
    expected = perplexity(model, tokenizer, PROMPTS, [Completion(0, 0, "b stop", 2, False)])
    assert found.value == expected.value


def test_a_completion_that_is_too_long_follows_the_end_of_its_prompt(model, tokenizer, caplog):
    text = "a b c d e " * 6  # 30 tokens, of 32 positions: the prompt keeps its last 2 of 5
    found = perplexity(model, tokenizer, ["e d c b a"], [Completion(0, 0, text, 30, False)])
    expected = perplexity(model, tokenizer, ["b a"], [Completion(0, 0, text, 30, False)])
    assert found.value == expected.value
    assert "1 of 1 completions, tokenized anew, are with their prompts longer than the 32 positions" in caplog.text
    longer = perplexity(model, tokenizer, ["e d c b a"], [Completion(0, 0, text + "a b c", 33, False)])
    cut = perplexity(model, tokenizer, ["a"], [Completion(0, 0, text + "a", 31, False)])
    assert longer.value == cut.value
