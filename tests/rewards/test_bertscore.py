"""BERTScore against figures of the bert-score library and cosines computed by hand, on a tiny BERT."""

import math
import operator
import pickle

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
)

from lmrl.rewards import BERTScore, make_reward

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "what", "a", "##s", "."]
PAIRS = [
    ("good films", "a good film"),
    ("bad", "what a good film ."),
    ("a a bad film", "good"),
    ("[SEP] bad film", "film [CLS] bad"),
    ("a film", "a film"),
    ("zzz", "good ."),
]
OUTPUTS = ["precision", "recall", "f1"]
# Of bert-score 0.3.13, a row per pair: precision, recall, F1.
LIBRARY = {
    1: [
        (0.9607566595077515, 0.9607566595077515, 0.9607566595077515),
        (0.8367074728012085, 0.6176611185073853, 0.7106887102127075),
        (0.7919068336486816, 0.9128602743148804, 0.8480926752090454),
        (0.990524172782898, 0.9301064610481262, 0.9593650102615356),
        (1.0, 1.0, 1.0),
        (0.9330614805221558, 0.8042868375778198, 0.863901674747467),
    ],
    2: [
        (0.9429970383644104, 0.9596282243728638, 0.9512399435043335),
        (0.9202661514282227, 0.8205697536468506, 0.8675631880760193),
        (0.8825867176055908, 0.9096873998641968, 0.8959321975708008),
        (0.9775395393371582, 0.8438571095466614, 0.9057924747467041),
        (1.0, 1.0, 1.0),
        (0.8019580841064453, 0.7089371681213379, 0.7525840997695923),
    ],
}


def config(**options):
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 16}
    return BertConfig(**sizes, num_hidden_layers=3, num_attention_heads=2, **options)


def save(folder, model):
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=16).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A BERT whose weights follow from a formula, and not from a generator of random numbers."""
    model = BertModel(config())
    with torch.no_grad():
        for place, (name, weights) in enumerate(sorted(model.named_parameters())):
            if "LayerNorm" not in name:
                noise = 1e4 * torch.sin(torch.arange(1, weights.numel() + 1, dtype=torch.float64) + place)
                weights.copy_((noise % 1 * 2 - 1).view(weights.shape))
    return save(tmp_path_factory.mktemp("bert"), model)


def scores(reward, pairs):
    return reward(completions=[text for text, _ in pairs], references=[references for _, references in pairs])


@pytest.mark.parametrize("layer", LIBRARY)
@pytest.mark.parametrize("output", OUTPUTS)
def test_scores_are_those_of_the_library(folder, layer, output):
    expected = [row[OUTPUTS.index(output)] for row in LIBRARY[layer]]
    assert scores(BERTScore(folder, layer, output=output), PAIRS) == pytest.approx(expected, abs=1e-5)


def test_every_token_is_matched_greedily_and_words_alone_are_averaged(folder):
    """[CLS] bad [SEP] against [CLS] good film [SEP], cosine by cosine."""
    model = BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        text, reference = (
            model(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0].tolist()
            for ids in ([2, 6, 3], [2, 5, 7, 3])
        )
    cosine = [[sum(map(operator.mul, a, b)) / math.hypot(*a) / math.hypot(*b) for b in reference] for a in text]
    precision = max(cosine[1])
    recall = (max(row[1] for row in cosine) + max(row[2] for row in cosine)) / 2
    pair = [("bad", "good film")]
    assert scores(BERTScore(folder, 2, output="precision"), pair) == pytest.approx([precision], abs=1e-5)
    assert scores(BERTScore(folder, 2, output="recall"), pair) == pytest.approx([recall], abs=1e-5)
    f1 = 2 * precision * recall / (precision + recall)
    assert scores(BERTScore(folder, 2), pair) == pytest.approx([f1], abs=1e-5)


@pytest.mark.parametrize(("text", "reference"), [("", "good"), ("good", " \n"), ("", ""), ("[CLS]", "good")])
def test_a_text_without_words_has_zero(folder, text, reference):
    for output in OUTPUTS:
        assert scores(BERTScore(folder, 2, output=output), [(text, reference), ("good", "bad")])[0] == 0.0


@pytest.mark.parametrize("text", ["a", ".", "猫", "😀 é", "what a good film ."])
def test_a_text_identical_to_a_reference_scores_one(folder, text):
    assert scores(BERTScore(folder, 3), [(text, ["bad", text])]) == pytest.approx([1.0], abs=1e-6)


def test_the_best_reference_counts(folder):
    """Figures of bert-score 0.3.13."""
    rows = [("good films", ["a good film", "film", "what bad films"])]
    assert scores(BERTScore(folder, 2, output="precision"), rows) == pytest.approx([0.9495075345039368], abs=1e-5)
    assert scores(BERTScore(folder, 2), rows) == pytest.approx([0.9512399435043335], abs=1e-5)


def test_a_score_depends_on_its_own_row_alone(folder):
    reward = BERTScore(folder, 2)
    expected = scores(reward, PAIRS)
    assert scores(reward, PAIRS[::-1]) == pytest.approx(expected[::-1], abs=1e-6)
    assert [scores(reward, [pair])[0] for pair in PAIRS] == pytest.approx(expected, abs=1e-6)
    for batch_size in (1, 2):
        assert scores(BERTScore(folder, 2, batch_size=batch_size), PAIRS) == pytest.approx(expected, abs=1e-6)


def test_scores_lie_in_the_stated_range(folder, cases):
    for output in OUTPUTS:
        reward = BERTScore(folder, 3, output=output, name="b")
        low, high = reward.range
        with pytest.warns(UserWarning, match="'b' cut . texts? to 16 tokens"):
            assert all(low <= score <= high for score in scores(reward, cases[:60]))


def test_references_are_embedded_once_a_row(folder):
    reward = BERTScore(folder, 1)
    scores(reward, [("good", ["bad", "film"])] * 3)
    assert (reward._prepared.cache_info().hits, reward._prepared.cache_info().misses) == (2, 1)


def test_it_pickles_without_its_weights(folder):
    reward = BERTScore(folder, 2)
    before = scores(reward, PAIRS)
    copy = pickle.loads(pickle.dumps(reward))
    assert "_encoder" not in vars(copy)
    assert copy.signature == reward.signature
    assert scores(copy, PAIRS) == before


def test_the_model_is_frozen_and_only_the_layers_it_needs(folder):
    encoder = BERTScore(folder, 2)._encoder
    assert len(encoder.encoder.layer) == 2
    assert not encoder.training
    assert not any(weights.requires_grad for weights in encoder.parameters())


def test_a_checkpoint_of_a_masked_language_model_serves(tmp_path):
    """It has a head that is not read, and lacks a pooler that is not read either."""
    reward = BERTScore(save(tmp_path, BertForMaskedLM(config())), 3)
    assert scores(reward, [("good", "good")]) == pytest.approx([1.0], abs=1e-6)


def test_to_a_byte_level_tokenizer_the_first_word_is_one_like_the_others(tmp_path):
    """As in the library, whose figures for RoBERTa rest on it."""
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "Ġ": 5, "Ġa": 6}
    RobertaTokenizer(vocab=vocabulary, merges=[("Ġ", "a")]).save_pretrained(tmp_path)
    sizes = {"vocab_size": 7, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 16}
    RobertaModel(RobertaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(tmp_path)
    reward = BERTScore(str(tmp_path), 1)
    assert reward._tokenizer("a a")["input_ids"] == [0, 6, 6, 2]
    assert scores(reward, [("a a", "a a"), ("", "a")]) == pytest.approx([1.0, 0.0], abs=1e-6)
    assert reward.max_length == 14  # of 16 positions the first two are for padding
    with pytest.warns(UserWarning, match="cut 1 texts to 14 tokens"):
        assert scores(reward, [("a " * 40, "a " * 12)]) == pytest.approx([1.0], abs=1e-6)


def test_a_checkpoint_that_lacks_weights_is_refused(folder, tmp_path):
    """They would be random, and the reward noise."""
    model = BertModel.from_pretrained(folder)
    weights = {key: value for key, value in model.state_dict().items() if "layer.0.output.dense" not in key}
    save(tmp_path, model)
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match=r"all weights.*without \['encoder\.layer\.0\.output\.dense\.bias'"):
        BERTScore(str(tmp_path), 2)


@pytest.mark.parametrize("layer", [0, 4, -1])
def test_a_layer_the_model_has_not_is_refused(folder, layer):
    with pytest.raises(ValueError, match=f"the 3 layers of .*from 1 on, got {layer}"):
        BERTScore(folder, layer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "f2"}, "output.*precision.*f2"),
        ({"batch_size": 0}, "batch_size"),
        ({}, "must be a pretrained encoder .*no/such"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BERTScore("no/such-model", 1, **options)


def test_a_configuration_makes_the_reward(folder):
    reward = make_reward({"bertscore": {"model": folder, "layer": 2, "output": "recall"}})
    assert (reward.__name__, reward.range) == ("bertscore", (-1.0, 1.0))
    assert reward.signature == (f"bertscore|nrefs:var|model:{folder}|layer:2|output:recall|idf:no|baseline:no|max:16")
