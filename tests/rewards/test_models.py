"""The classifier as a reward, against logits computed by hand with the same tiny BERT."""

import math
import pickle

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    Gemma3Config,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from lmrl.rewards import Classifier, make_reward
from lmrl.rewards.models import gpu_of_worker, longest_input

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "what", "a", "##s", "."]
PAD, CLS, SEP = 0, 2, 3
LABELS = {0: "negative", 1: "neutral", 2: "positive"}
TEXTS = ["good films", "bad", "", "what a good film . what a bad film .", "a"]
IDS = [  # by hand
    [CLS, 5, 7, 10, SEP],
    [CLS, 6, SEP],
    [CLS, SEP],
    [CLS, 8, 9, 5, 7, 11, 8, 9, 6, 7, 11, SEP],
    [CLS, 9, SEP],
]


def config(**options):
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertConfig(
        **{
            **sizes,
            "intermediate_size": 32,
            "max_position_embeddings": 16,
            "initializer_range": 0.5,
            "id2label": LABELS,
            "label2id": {name: index for index, name in LABELS.items()},
            **options,
        }
    )


def save(folder, model, **options):
    model.save_pretrained(folder)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    BertTokenizer(vocab=str(vocabulary), **{"model_max_length": 16, **options}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return save(tmp_path_factory.mktemp("bert"), BertForSequenceClassification(config()))


@pytest.fixture(scope="session")
def logits(folder):
    """One text at a time: no padding, no mask, no tokenizer."""
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in IDS]).tolist()


def softmax(row):
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


EXPECTED = {
    "probability": lambda row: softmax(row)[2],
    "logit": lambda row: row[2],
    "log_odds": lambda row: math.log(softmax(row)[2] / (1 - softmax(row)[2])),
    "margin": lambda row: row[2] - max(row[0], row[1]),
}


@pytest.mark.parametrize("output", EXPECTED)
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_the_reward_is_read_from_the_logits(folder, logits, output, batch_size):
    reward = Classifier(folder, "positive", output=output, batch_size=batch_size)
    assert reward(completions=TEXTS) == pytest.approx([EXPECTED[output](row) for row in logits], abs=1e-5)


def test_a_label_is_given_by_name_or_index(folder, logits):
    by_name, by_index = Classifier(folder, "negative"), Classifier(folder, 0)
    assert by_name(completions=TEXTS) == by_index(completions=TEXTS)
    assert by_name(completions=TEXTS) == pytest.approx([softmax(row)[0] for row in logits], abs=1e-5)


@pytest.mark.parametrize("label", ["POSITIVE", 3, -1, True, None])
def test_an_unknown_label_is_refused_with_those_there_are(folder, label):
    with pytest.raises(ValueError, match="0: 'negative', 1: 'neutral', 2: 'positive'"):
        Classifier(folder, label)


def test_a_checkpoint_without_a_head_is_refused(tmp_path):
    """It would be a random one, and the reward noise."""
    folder = save(tmp_path, BertModel(config()))
    with pytest.raises(ValueError, match=r"all weights.*classifier\.weight.*trained as a sequence classifier"):
        Classifier(folder, 0)


def test_texts_are_tokenized_with_the_classifiers_special_tokens(folder, monkeypatch):
    seen = []
    model = BertForSequenceClassification.from_pretrained(folder)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: (seen.append(inputs["input_ids"]), forward(**inputs))[1])
    Classifier(model, 2)(completions=["good film"])
    assert seen[0].tolist() == [[CLS, 5, 7, SEP]]


def test_a_prompt_is_read_as_the_first_of_a_pair(folder):
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        pair = model(
            input_ids=torch.tensor([[CLS, 8, 7, SEP, 5, SEP]]), token_type_ids=torch.tensor([[0, 0, 0, 0, 1, 1]])
        )
    expected = pair.logits.softmax(-1)[0, 2].item()
    reward = Classifier(folder, 2, use_prompt=True)
    chat = [{"role": "user", "content": "what film"}]
    assert reward(prompts=["what film"], completions=["good"]) == pytest.approx([expected], abs=1e-5)
    assert reward(prompts=[chat], completions=["good"]) == pytest.approx([expected], abs=1e-5)
    with pytest.raises(ValueError, match="needs `prompts`"):
        reward(completions=["good"])


@pytest.mark.parametrize(("side", "kept"), [("right", "good good bad"), ("left", "good bad film")])
def test_a_long_text_is_cut_at_the_stated_side_with_a_warning(folder, side, kept):
    reward = Classifier(folder, 2, truncation_side=side, max_length=5)
    with pytest.warns(UserWarning, match="cut 1 of 2 texts to 5 tokens"):
        cut, short = reward(completions=["good good bad film", "good"])
    assert [cut, short] == pytest.approx(Classifier(folder, 2)(completions=[kept, "good"]), abs=1e-5)


def test_the_longest_input_is_that_of_the_model(folder):
    reward = Classifier(folder, 2)
    assert reward.max_length == 16
    with pytest.warns(UserWarning, match="cut 1 of 1 texts to 16 tokens"):
        reward(completions=["good " * 40])


def test_a_model_whose_positions_begin_after_the_padding_reads_fewer_tokens(folder):
    """RoBERTa: 514 positions, 512 tokens."""
    roberta = RobertaForSequenceClassification(
        RobertaConfig(**config().to_diff_dict() | {"pad_token_id": 1, "max_position_embeddings": 14})
    )
    tokenizer = BertTokenizer.from_pretrained(folder, model_max_length=10**30)
    reward = Classifier(roberta, 2, tokenizer=tokenizer)
    assert reward.max_length == 12
    with pytest.warns(UserWarning, match="cut 1 of 2 texts to 12 tokens"):
        rewards = reward(completions=["good " * 40, "good " * 10])
    assert rewards == pytest.approx(Classifier(roberta, 2, tokenizer=tokenizer)(completions=["good " * 10] * 2))
    assert longest_input(tokenizer, BertConfig(max_position_embeddings=14), None) == 14
    assert longest_input(tokenizer, Gemma3Config(text_config={"max_position_embeddings": 99}), None) == 99


def test_a_decoder_reads_an_empty_text_as_a_token_of_padding():
    """Its tokenizer has no special tokens, so that an empty text has no token."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    words = Tokenizer(WordLevel(vocabulary, "[UNK]"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
    assert tokenizer("")["input_ids"] == []
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForSequenceClassification(LlamaConfig(vocab_size=len(WORDS), num_labels=2, **sizes)).eval()
    reward = Classifier(model, 1, tokenizer=tokenizer, output="logit")
    with torch.no_grad():
        states = [model.model(input_ids=torch.tensor([ids])).last_hidden_state for ids in ([PAD], [5, 7])]
        expected = [model.score(state[0, -1])[1].item() for state in states]
    assert reward(completions=["", ""]) == pytest.approx([expected[0]] * 2, abs=1e-5)
    assert reward(completions=["good film", ""]) == pytest.approx(expected[::-1], abs=1e-5)


def test_the_model_is_frozen_and_in_eval_mode(folder):
    model = BertForSequenceClassification.from_pretrained(folder).train()
    reward = Classifier(model, 2)
    assert reward(completions=TEXTS) == reward(completions=TEXTS) == Classifier(folder, 2)(completions=TEXTS)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_given_by_name_it_pickles_without_its_weights(folder):
    reward = Classifier(folder, "positive")
    before = reward(completions=TEXTS)
    copy = pickle.loads(pickle.dumps(reward))
    assert "_model" not in vars(copy)
    assert (copy.signature, copy.label) == (reward.signature, 2)
    assert copy(completions=TEXTS) == before


def test_given_as_a_model_it_pickles_with_its_weights(folder):
    reward = Classifier(BertForSequenceClassification.from_pretrained(folder), 2)
    assert pickle.loads(pickle.dumps(reward))(completions=TEXTS) == reward(completions=TEXTS)


def test_a_model_of_unknown_origin_needs_its_tokenizer():
    with pytest.raises(ValueError, match="`tokenizer` must be given"):
        Classifier(BertForSequenceClassification(config()), 0)


def test_independent_labels_have_a_sigmoid_each(tmp_path):
    model = BertForSequenceClassification(config(problem_type="multi_label_classification"))
    folder = save(tmp_path, model)
    with torch.no_grad():
        logit = model.eval()(input_ids=torch.tensor([IDS[0]])).logits[0, 1].item()
    assert Classifier(folder, 1)(completions=TEXTS[:1]) == pytest.approx([1 / (1 + math.exp(-logit))], abs=1e-5)
    assert Classifier(folder, 1, output="log_odds")(completions=TEXTS[:1]) == pytest.approx([logit], abs=1e-5)
    with pytest.raises(ValueError, match="exclude each other"):
        Classifier(folder, 1, output="margin")


def test_a_decoder_is_read_at_its_last_token_whatever_the_padding(folder):
    """Its configuration has no padding token."""
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    model = LlamaForSequenceClassification(
        LlamaConfig(**sizes, num_attention_heads=2, num_labels=2, pad_token_id=None, initializer_range=0.5)
    ).eval()
    with torch.no_grad():
        head = [model.score(model.model(torch.tensor([ids])).last_hidden_state[0, -1]) for ids in IDS]
    expected = [row.softmax(-1)[1].item() for row in head]
    tokenizer = BertTokenizer.from_pretrained(folder)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.padding_side = "left"
    assert Classifier(model, 1, tokenizer=tokenizer)(completions=TEXTS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "prob"}, "output.*probability.*prob"),
        ({"truncation_side": "middle"}, "truncation_side"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_length": 0}, "`max_length` must be at least 1, got 0"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_loaded(options, message):
    with pytest.raises(ValueError, match=message):
        Classifier("no/such-model", 0, **options)


def test_a_configuration_makes_a_classifier(folder):
    reward = make_reward({"classifier": {"model": folder, "label": "positive", "output": "log_odds", "name": "mood"}})
    assert (reward.__name__, reward.range) == ("mood", (-math.inf, math.inf))
    assert reward.signature == (
        f"classifier|model:{folder}|label:2=positive|output:log_odds|max:16|cut:right|prompt:False"
    )


@pytest.mark.parametrize(("rank", "devices", "gpu"), [("2", 4, "cuda:2"), ("0", 1, "cuda:0"), (None, 4, "cuda")])
def test_a_worker_takes_the_gpu_of_the_process_that_started_it(rank, devices, gpu):
    assert gpu_of_worker(rank, devices) == gpu


def test_a_worker_that_sees_one_gpu_takes_that():
    assert gpu_of_worker("3", devices=1) == "cuda"
