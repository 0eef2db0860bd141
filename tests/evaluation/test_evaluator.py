"""The held-out evaluation of a run against evaluate_model called by hand."""

import copy
import gc
import weakref

import pytest
import torch
from datasets import Dataset

from lmrl.evaluation import Decoding, Evaluator, FrozenModels, evaluate_model

ROWS = Dataset.from_list(
    [
        {"prompt": "a b", "references": ["c d", "e"]},
        {"prompt": "c", "references": ["f"]},
        {"prompt": "d e f", "references": ["a b c"]},
    ]
)
DECODING = Decoding(max_new_tokens=8, do_sample=True, num_samples=2, batch_size=2, seed=3)


def share_of_a(*, completions, **columns):
    return [text.count("a") / max(len(text), 1) for text in completions]


def test_an_evaluator_gives_the_scores_of_all_rows_with_the_frozen_models_loaded_on_the_device_of_the_policy(
    model, reference, tokenizer
):
    devices = []

    def load(device):
        devices.append(device)
        return FrozenModels(reference_model=reference, perplexity_model=(reference, tokenizer))

    evaluator = Evaluator(tokenizer, ROWS, DECODING, reward_funcs=[share_of_a], load_frozen_models=load)
    expected = evaluate_model(
        model,
        tokenizer,
        ROWS,
        DECODING,
        reward_funcs=[share_of_a],
        reference_model=reference,
        perplexity_model=(reference, tokenizer),
        progress=False,
    )
    assert evaluator(model) == evaluator(model) == expected
    assert devices == [torch.device("cpu")] * 2
    assert {"kl", "own_perplexity", "perplexity", "reward/share_of_a"} <= expected.values.keys()


def test_the_frozen_models_are_freed_after_an_evaluation(model, tokenizer):
    loaded = []

    def load(device):
        frozen = copy.deepcopy(model)
        loaded.append(weakref.ref(frozen))
        return FrozenModels(frozen, (frozen, tokenizer))

    evaluator = Evaluator(tokenizer, ROWS, DECODING, load_frozen_models=load)
    evaluator(model)
    gc.collect()
    assert len(loaded) == 1 and loaded[0]() is None


def test_scores_are_those_of_the_first_rows_without_loading_frozen_models(model, tokenizer):
    def load(device):
        raise AssertionError("loaded")

    evaluator = Evaluator(
        tokenizer, ROWS, DECODING, reward_funcs=[share_of_a], metrics=["bleu"], subset_size=2, load_frozen_models=load
    )
    assert list(evaluator.subset) == list(ROWS)[:2] and evaluator.rows is ROWS
    expected = evaluate_model(
        model,
        tokenizer,
        ROWS.select(range(2)),
        DECODING,
        reward_funcs=[share_of_a],
        metrics=["bleu"],
        progress=False,
    )
    assert evaluator.scores(model) == expected.values
    assert list(expected.values) == ["bleu", "reward/share_of_a"]


def test_a_subset_larger_than_the_rows_is_all_of_them(tokenizer):
    assert list(Evaluator(tokenizer, ROWS, DECODING, subset_size=9).subset) == list(ROWS)
    assert list(Evaluator(tokenizer, ROWS, DECODING).subset) == list(ROWS)


def test_a_subset_without_rows_raises(tokenizer):
    with pytest.raises(ValueError, match="`subset_size` must be at least 1, got 0"):
        Evaluator(tokenizer, ROWS, DECODING, subset_size=0)
