"""Fluency against log-probabilities that are added up by hand, one completion at a time."""

import math
import pickle

import pytest
import torch
from tiny import WORDS, tiny_tokenizer
from transformers import AutoModel, AutoModelForCausalLM

from lmrl.rewards import Fluency, make_reward

EOS = WORDS.index("<eos>")
TEXTS = ["a b c d", "e", "f g h i j k l", "w1 w2"]
PROMPTS = ["m n", "o p q r s", "t", "u v"]


def ids(text):
    return [WORDS.index(word) for word in text.split()]


def by_hand(path, context, text):
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    tokens = context + text
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    total = 0.0
    for place in range(len(context), len(tokens)):
        row = logits[place - 1].tolist()
        total += row[tokens[place]] - math.log(sum(math.exp(value) for value in row))
    return total / len(text)


@pytest.mark.parametrize("base", ["gpt2_path", "llama_path"])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_it_is_the_mean_log_probability_of_the_tokens(request, base, batch_size):
    path = request.getfixturevalue(base)
    alone = [by_hand(path, [EOS], ids(text)) for text in TEXTS]
    assert Fluency(path, batch_size=batch_size)(completions=TEXTS) == pytest.approx(alone, abs=1e-5)
    given = [by_hand(path, ids(prompt), ids(text)) for prompt, text in zip(PROMPTS, TEXTS, strict=True)]
    reward = Fluency(path, batch_size=batch_size, use_prompt=True)
    assert reward(completions=TEXTS, prompts=PROMPTS) == pytest.approx(given, abs=1e-5)


def test_a_chat_goes_through_the_template_up_to_where_the_assistant_begins(gpt2_path):
    chat = [{"role": "user", "content": "a"}]
    expected = by_hand(gpt2_path, ids("user a assistant"), ids("b c"))
    reward = Fluency(gpt2_path, use_prompt=True)
    assert reward(completions=["b c"], prompts=[chat]) == pytest.approx([expected], abs=1e-5)
    reply = [{"role": "assistant", "content": "b c"}]
    assert reward(completions=[reply], prompts=[chat]) == pytest.approx([expected], abs=1e-5)


def test_the_chat_template_is_given_its_variables(gpt2_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}{% if think | default(true) %} d{% endif %}"
    chat = [[{"role": "user", "content": "a"}]]
    for variables, prompt in ((None, "a d"), ({"think": False}, "a")):
        options = {"use_prompt": True, "tokenizer": tokenizer}
        reward = Fluency(gpt2_path, chat_template_kwargs=variables, **options)
        plain = Fluency(gpt2_path, **options)
        assert reward(completions=["b c"], prompts=chat) == plain(completions=["b c"], prompts=[prompt])


def test_an_empty_completion_has_no_fluency(gpt2_path):
    reward = Fluency(gpt2_path)
    assert reward(completions=["", "a"]) == [None, pytest.approx(by_hand(gpt2_path, [EOS], ids("a")), abs=1e-5)]
    assert reward(completions=["", " "]) == [None, None]
    assert reward(completions=[]) == []


def test_a_text_begins_with_the_bos_where_there_is_one(gpt2_path):
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "system"
    expected = by_hand(gpt2_path, ids("system"), ids("a b"))
    assert Fluency(gpt2_path, tokenizer=tokenizer)(completions=["a b"]) == pytest.approx([expected], abs=1e-5)


def test_a_tokenizer_without_pad_token_will_do(gpt2_path):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    assert Fluency(gpt2_path, tokenizer=tokenizer)(completions=TEXTS) == Fluency(gpt2_path)(completions=TEXTS)


def test_of_a_long_text_the_prompts_beginning_is_cut_and_then_the_completions_end(gpt2_path):
    reward = Fluency(gpt2_path, max_length=4, use_prompt=True)
    with pytest.warns(UserWarning, match="cut 2 of 3 texts to 4 tokens"):
        values = reward(completions=["d e", "d e f g h", "d"], prompts=["a b c", "a b c", "c"])
    expected = [("b c", "d e"), ("c", "d e f"), ("c", "d")]
    assert values == pytest.approx([by_hand(gpt2_path, ids(a), ids(b)) for a, b in expected], abs=1e-5)


def test_the_longest_input_is_that_of_the_model(gpt2_path):
    assert Fluency(gpt2_path).max_length == 64


def test_a_model_without_a_language_model_head_is_refused(gpt2_path, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(gpt2_path)
    model.config.tie_word_embeddings = False
    AutoModel.from_pretrained(gpt2_path, config=model.config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must have all weights.*Name a causal language model"):
        Fluency(str(tmp_path))


def test_prompts_and_special_tokens_are_required(gpt2_path):
    with pytest.raises(ValueError, match="needs `prompts`"):
        Fluency(gpt2_path, use_prompt=True)(completions=["a"])
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="must have a BOS or an EOS token"):
        Fluency(gpt2_path, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="max_length"):
        Fluency(gpt2_path, max_length=1)


def test_the_model_is_frozen_and_pickles_without_its_weights(gpt2_path):
    reward = Fluency(gpt2_path)
    assert not reward._model.training
    assert not any(parameter.requires_grad for parameter in reward._model.parameters())
    copy = pickle.loads(pickle.dumps(reward))
    assert "_model" not in vars(copy)
    assert copy(completions=TEXTS) == reward(completions=TEXTS)


def test_a_configuration_makes_it(gpt2_path):
    reward = make_reward({"fluency": {"model": gpt2_path}})
    assert (reward.__name__, reward.range) == ("fluency", (-math.inf, 0.0))
    assert reward.signature == f"fluency|model:{gpt2_path}|per:token|max:64|prompt:False"
