"""Generation against a loop over plain forward passes, and without traces of saved defaults or modes."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lmrl.evaluation import Completion, Decoding, generate_completions

EOS, STOP = 0, 2  # as in conftest.WORDS


def generate(model, tokenizer, prompts, **settings):
    decoding = Decoding(**{"max_new_tokens": 12, **settings})
    return generate_completions(model, tokenizer, prompts, decoding, progress=False)


def texts(completions):
    return [completion.text for completion in completions]


@torch.no_grad()
def greedy_by_hand(model, tokenizer, prompt, max_new_tokens, eos_ids=(EOS,)):
    """One prompt without padding, every step a full forward pass."""
    ids = tokenizer(prompt)["input_ids"]
    start = len(ids)
    while len(ids) < start + max_new_tokens:
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in eos_ids:
            return ids[start:-1], len(ids) - start, True
    return ids[start:], max_new_tokens, False


def test_no_prompts_give_no_completions(model, tokenizer):
    assert generate(model, tokenizer, []) == []


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_padded_batch_equals_a_loop_over_single_prompts(model, tokenizer, prompts, batch_size):
    expected = []
    for row, prompt in enumerate(prompts):
        ids, length, finished = greedy_by_hand(model, tokenizer, prompt, 12)
        expected.append(Completion(row, 0, tokenizer.decode(ids, skip_special_tokens=True), length, finished))
    assert generate(model, tokenizer, prompts, batch_size=batch_size) == expected
    assert len({completion.text for completion in expected}) > 4  # a model with one completion would show nothing


def test_the_padding_side_and_the_pad_token_of_the_tokenizer_do_not_matter(model, tokenizer, prompts):
    model.generation_config.eos_token_id = [EOS, STOP]
    expected = generate(model, tokenizer, prompts)
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.eos_token
    assert generate(model, tokenizer, prompts) == expected


def test_beam_search_of_a_padded_batch_equals_single_prompts(model, tokenizer, prompts):
    batched = generate(model, tokenizer, prompts, num_beams=3)
    single = [generate(model, tokenizer, [prompt], num_beams=3)[0] for prompt in prompts]
    assert [(c.text, c.length, c.finished) for c in batched] == [(c.text, c.length, c.finished) for c in single]


def test_a_text_ends_at_either_of_two_eos_ids(model, tokenizer, prompts):
    settings = {"do_sample": True, "num_samples": 20}
    model.generation_config.eos_token_id = [EOS, STOP]
    both = generate(model, tokenizer, prompts, **settings)
    assert not any("stop" in text for text in texts(both))
    assert {completion.finished for completion in both} == {True, False}
    for completion in both:
        words = len(completion.text.split()) + completion.text.count("<pad>")
        if completion.finished:
            assert words <= completion.length - 1 < 12  # a generated <pad> is no word, but a token
        else:
            assert words <= completion.length == 12
    model.generation_config.eos_token_id = EOS
    assert any("stop" in text for text in texts(generate(model, tokenizer, prompts, **settings)))


def test_an_eos_at_once_is_an_empty_text_of_length_one(model, tokenizer):
    ids, _, _ = greedy_by_hand(model, tokenizer, "a b", 1)
    model.generation_config.eos_token_id = ids[0]
    assert generate(model, tokenizer, ["a b"]) == [Completion(0, 0, "", 1, True)]


def test_without_eos_in_the_generation_config_that_of_the_tokenizer_is_used(model, tokenizer, prompts):
    expected = generate(model, tokenizer, prompts, do_sample=True)
    model.generation_config.eos_token_id = None
    assert generate(model, tokenizer, prompts, do_sample=True) == expected
    assert any(completion.finished for completion in expected)


def test_the_ends_of_the_tokenizer_and_of_the_generation_config_end_a_text_whichever_names_which(
    model, tokenizer, prompts
):
    settings = {"do_sample": True, "num_samples": 20}
    model.generation_config.eos_token_id = [STOP, EOS]
    expected = generate(model, tokenizer, prompts, **settings)
    assert {c.token_ids[-1] for c in expected if c.finished} == {EOS, STOP}
    model.generation_config.eos_token_id = STOP  # as before a training with this tokenizer, which writes both
    assert generate(model, tokenizer, prompts, **settings) == expected
    tokenizer.eos_token = "stop"
    model.generation_config.eos_token_id = EOS
    assert generate(model, tokenizer, prompts, **settings) == expected


def test_the_token_ids_of_a_completion_are_the_generated_ones(model, tokenizer, prompts):
    for completion, prompt in zip(generate(model, tokenizer, prompts), prompts, strict=True):
        ids, length, finished = greedy_by_hand(model, tokenizer, prompt, 12)
        assert completion.token_ids == [*ids, *[EOS] * finished] and len(completion.token_ids) == length


def test_samples_are_sorted_by_row_and_then_by_number(model, tokenizer, prompts):
    completions = generate(model, tokenizer, prompts, do_sample=True, num_samples=3, batch_size=2)
    assert [(c.row, c.sample) for c in completions] == [(row, sample) for row in range(8) for sample in range(3)]


def test_sampling_repeats_with_its_seed_and_differs_with_another(model, tokenizer, prompts):
    first = generate(model, tokenizer, prompts, do_sample=True, seed=1)
    torch.manual_seed(1234)
    assert generate(model, tokenizer, prompts, do_sample=True, seed=1) == first
    assert generate(model, tokenizer, prompts, do_sample=True, seed=2) != first


def test_batches_are_sampled_with_different_seeds(model, tokenizer):
    completions = generate(model, tokenizer, ["a b"] * 6, do_sample=True, batch_size=1)
    assert len(set(texts(completions))) > 1


def test_the_random_state_is_restored(model, tokenizer, prompts):
    before = torch.get_rng_state()
    generate(model, tokenizer, prompts, do_sample=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_follow_the_complete_softmax(model, tokenizer):
    """First tokens of 4000 samples against the model's probabilities."""
    model.generation_config.top_k = 2  # a saved default that must not count
    completions = generate(model, tokenizer, ["a b"], do_sample=True, num_samples=4000, max_new_tokens=1)
    counts = torch.zeros(12)
    for completion in completions:
        if completion.text and not completion.finished:
            counts[tokenizer.convert_tokens_to_ids(completion.text)] += 1
    with torch.no_grad():
        probabilities = model(torch.tensor([tokenizer("a b")["input_ids"]])).logits[0, -1].softmax(-1)
    # Four standard deviations of a share; eos and pad have no text.
    error = 4 * (probabilities * (1 - probabilities) / 4000).sqrt()[2:]
    assert ((counts / 4000 - probabilities)[2:].abs() <= error + 1e-3).all()


def test_saved_generation_defaults_are_not_used_and_are_restored(model, tokenizer, prompts):
    greedy, sampled = generate(model, tokenizer, prompts), generate(model, tokenizer, prompts, do_sample=True)
    saved = copy.deepcopy(model.generation_config)
    saved.update(top_k=1, repetition_penalty=5.0, do_sample=True, suppress_tokens=[3, 4, 5], min_new_tokens=9)
    model.generation_config = saved
    assert generate(model, tokenizer, prompts) == greedy
    assert generate(model, tokenizer, prompts, do_sample=True) == sampled
    assert model.generation_config is saved


def test_a_low_temperature_is_greedy(model, tokenizer, prompts):
    assert generate(model, tokenizer, prompts, do_sample=True, temperature=1e-4) == generate(model, tokenizer, prompts)
    assert generate(model, tokenizer, prompts, do_sample=True, top_p=1e-6) == generate(model, tokenizer, prompts)


def test_dropout_is_off_and_the_mode_of_each_module_is_restored(model, tokenizer, prompts):
    expected = generate(model, tokenizer, prompts)
    model.train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]
    assert generate(model, tokenizer, prompts) == expected
    assert [module.training for module in model.modules()] == before


def test_training_continues_after_generation(model, tokenizer, prompts):
    generate(model, tokenizer, prompts)
    ids = torch.tensor([tokenizer("a b c")["input_ids"]])
    model(ids, labels=ids).loss.backward()
    assert model.transformer.wte.weight.grad.abs().sum() > 0


def test_a_peft_model_generates_as_its_merged_weights(model, tokenizer, prompts):
    plain = generate(model, tokenizer, prompts)
    lora = LoraConfig(
        r=4, target_modules=["c_attn"], init_lora_weights=False, task_type="CAUSAL_LM", fan_in_fan_out=True
    )
    peft = get_peft_model(model, lora)
    base = peft.get_base_model()
    base.generation_config.eos_token_id = [EOS, STOP]
    base.generation_config.repetition_penalty = 5.0
    saved = base.generation_config
    adapted = generate(peft, tokenizer, prompts)
    assert base.generation_config is saved and peft.generation_config is saved
    assert texts(adapted) != texts(plain)
    assert adapted == generate(peft.merge_and_unload(), tokenizer, prompts)


def test_chat_prompts_go_through_the_template(model, tokenizer):
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['content'] }} d {% endfor %}"
        "{% if add_generation_prompt %}e{% endif %}"
    )
    chat = [
        [{"role": "system", "content": "a"}, {"role": "user", "content": "b c"}],
        [{"role": "user", "content": "f"}],
    ]
    assert generate(model, tokenizer, chat) == generate(model, tokenizer, ["a d b c d e", "f d e"])


def test_the_chat_template_is_given_its_variables(model, tokenizer):
    tokenizer.chat_template = "{{ messages[0]['content'] }} {% if think | default(true) %}d{% else %}e{% endif %}"
    chat = [[{"role": "user", "content": "b c"}]]
    assert generate(model, tokenizer, chat) == generate(model, tokenizer, ["b c d"])
    given = generate(model, tokenizer, chat, chat_template_kwargs={"think": False})
    assert given == generate(model, tokenizer, ["b c e"]) != generate(model, tokenizer, ["b c d"])


def test_an_empty_prompt_starts_from_bos_or_raises(model, tokenizer):
    with pytest.raises(ValueError, match=r"`prompt` of row 1 must have at least 1 token, got ''"):
        generate(model, tokenizer, ["a", ""])
    tokenizer.bos_token = "i"
    assert texts(generate(model, tokenizer, [""])) == texts(generate(model, tokenizer, ["i"]))


def test_a_token_that_the_model_does_not_have_raises_with_its_row(model, tokenizer):
    tokenizer.add_tokens(["kettle"])
    with pytest.raises(ValueError, match=r"Token ids must be below 12, .* got 12 in row 1\. A token was added"):
        generate(model, tokenizer, ["a b", "a kettle"])


def test_a_prompt_that_does_not_fit_raises_with_the_remedy(model, tokenizer, prompts):
    with pytest.raises(
        ValueError,
        match=r"`prompt` of row 3 .* 32 positions, got 9 \+ 24 tokens. Set `max_new_tokens` .* to 23 or less",
    ):
        generate(model, tokenizer, prompts, max_new_tokens=24)
    assert len(generate(model, tokenizer, prompts, max_new_tokens=23)) == 8
    with pytest.raises(ValueError, match="Shorten the prompt"):
        generate(model, tokenizer, ["a " * 40], max_new_tokens=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"num_samples": 0}, "`num_samples` must be at least 1, got 0"),
        ({"temperature": 0.0, "do_sample": True}, r"`temperature` must be above 0, got 0.0.*do_sample=False"),
        ({"temperature": float("nan"), "do_sample": True}, r"`temperature` must be above 0, got nan"),
        ({"top_p": 0.0}, r"`top_p` must be in \(0, 1\], got 0.0"),
        ({"num_samples": 2}, "`num_samples` must be 1 without sampling, got 2"),
        (
            {"do_sample": True, "num_beams": 2, "num_samples": 3},
            "`num_samples` must be at most 2, the number of beams, got 3",
        ),
    ],
)
def test_arguments_out_of_range_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**{"max_new_tokens": 1, **settings})
