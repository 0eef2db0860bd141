"""Scores that others published or that a defining implementation gave on real texts."""

import json

import numpy as np
import pytest

from lmrl.rewards import BLEU, NIST, CIDErD, Rouge
from lmrl.rewards.corpus import nist_score


def test_rouge_agrees_with_rouge_155_to_five_digits(data_dir):
    """The cases of Google's own tests, from runs of the original Perl program."""
    for case in json.loads((data_dir / "metric_refs/rouge_google/rouge155_cases.json").read_text()):
        reward = Rouge(case["type"], use_stemmer=case["use_stemmer"])
        (score,) = reward(completions=[case["prediction"]], references=[case["target"]])
        assert score == pytest.approx(case["fmeasure"], abs=1e-5), case


@pytest.mark.parametrize("name", ["bleu", "rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_sentence_scores_of_the_e2e_baseline_are_as_recorded(data_dir, name):
    recorded = json.loads((data_dir / "metric_refs/e2e_metrics/expected_scores.json").read_text())
    sentences = recorded["e2e_devel10_baseline"]["sentences"]
    # The recorded BLEU is that of lowercased text, though its key does not name it.
    reward = BLEU(lowercase=True) if name == "bleu" else Rouge(name, use_stemmer=True)
    scores = reward(completions=[row["hyp"] for row in sentences], references=[row["refs"] for row in sentences])
    expected = [row["sacrebleu_sentence_exp"] / 100 if name == "bleu" else row[f"f_{name}"] for row in sentences]
    assert scores == pytest.approx(expected, abs=1e-9)


def test_cider_d_and_nist_of_the_e2e_baseline_are_as_recorded(data_dir):
    """Those of the COCO and the E2E scripts, which weigh n-grams by the references of the texts that they score."""
    recorded = json.loads((data_dir / "metric_refs/e2e_metrics/expected_scores.json").read_text())
    recorded = recorded["e2e_devel10_baseline"]
    completions = [row["hyp"] for row in recorded["sentences"]]
    references = [row["refs"] for row in recorded["sentences"]]
    scores = CIDErD(references)(completions=completions, references=references)
    assert scores == pytest.approx([row["coco_CIDEr"] for row in recorded["sentences"]], abs=1e-9)
    assert sum(scores) / len(scores) == pytest.approx(recorded["coco_CIDEr"], abs=1e-9)
    rows = NIST(references).statistics(completions, references)
    pooled = nist_score(np.sum(rows, axis=0))
    assert pooled == pytest.approx(recorded["pymteval_NIST5"], abs=1e-9)
