"""The KL to the reference against sums over all texts of a small vocabulary, and token by token."""

import copy
import itertools
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lmrl.evaluation import Completion, Decoding, divergence, generate_completions, likelihood, perplexity
from lmrl.evaluation.likelihood import pooled_perplexity

PROMPTS = ["a b c d e", "c", "i h g"]
COMPLETIONS = [
    Completion(0, 0, "b c", 3, True),
    Completion(1, 0, "d e f g h i a b", 8, False),
    Completion(1, 1, "", 1, True),
    Completion(2, 0, "a", 1, False),
]


@torch.no_grad()
def by_hand(model, reference, tokenizer, completion):
    """Returns the KL and the log-probability of a completion, every token by a forward pass without padding."""
    ids = tokenizer(PROMPTS[completion.row])["input_ids"]
    kl = log_prob = 0.0
    for target in tokenizer(completion.text)["input_ids"] + [tokenizer.eos_token_id] * completion.finished:
        p, q = (m(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1) for m in (model, reference))
        kl += float((p.exp() * (p - q)).sum())
        log_prob += float(p[target])
        ids = [*ids, target]
    return kl, log_prob


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_kl_and_perplexity_equal_a_loop_over_tokens_whatever_the_padding(model, reference, tokenizer, batch_size):
    expected = [by_hand(model, reference, tokenizer, completion) for completion in COMPLETIONS]
    found = divergence(model, reference, tokenizer, PROMPTS, COMPLETIONS, batch_size=batch_size)
    kls = [kl for kl, _ in expected]
    assert min(kls) > 0.01
    assert found["kl"].row_scores == pytest.approx(kls, rel=1e-4)
    assert found["kl"].value == pytest.approx(sum(kls) / 4, rel=1e-4)
    assert found["own_perplexity"].value == pytest.approx(math.exp(-sum(p for _, p in expected) / 13), rel=1e-5)
    assert found["kl"].higher_is_better is None and "unit:nats" in found["kl"].signature


def test_the_kl_of_a_model_to_itself_is_0_and_its_own_perplexity_its_perplexity(model, tokenizer):
    found = divergence(model, model, tokenizer, PROMPTS, COMPLETIONS)
    assert found["kl"].row_scores == [0.0] * 4
    expected = perplexity(model, tokenizer, PROMPTS, COMPLETIONS)
    assert found["own_perplexity"].value == pytest.approx(expected.value, rel=1e-6)
    assert found["own_perplexity"].row_scores == pytest.approx(expected.row_scores, rel=1e-6)


def test_a_token_that_both_models_suppress_has_no_part_in_the_kl(model, reference, tokenizer):
    def kl(logit):
        def suppress(_module, _inputs, output):
            output.logits[..., -1] = logit

        hooks = [each.register_forward_hook(suppress) for each in (model, reference)]
        found = divergence(model, reference, tokenizer, PROMPTS, COMPLETIONS[:1])["kl"].value
        for hook in hooks:
            hook.remove()
        return found

    suppressed = kl(-math.inf)
    assert suppressed == pytest.approx(kl(-1e4), rel=1e-5)
    assert suppressed > 0.01


def test_a_completion_without_tokens_has_no_kl(model, reference, tokenizer):
    found = divergence(model, reference, tokenizer, PROMPTS, [Completion(0, 0, "", 1, False), COMPLETIONS[0]])
    assert found["kl"].row_scores[0] == 0 and math.isnan(found["own_perplexity"].row_scores[0])


def test_a_policy_with_an_adapter_equals_its_merged_weights(model, tokenizer):
    reference = copy.deepcopy(model)
    torch.manual_seed(1)
    lora = LoraConfig(
        r=4, target_modules=["c_attn"], init_lora_weights=False, task_type="CAUSAL_LM", fan_in_fan_out=True
    )
    policy = get_peft_model(model, lora)
    policy.train()
    found = divergence(policy, reference, tokenizer, PROMPTS, COMPLETIONS)
    assert policy.training and found["kl"].value > 0.01
    merged = divergence(policy.merge_and_unload(), reference, tokenizer, PROMPTS, COMPLETIONS)
    assert found["kl"].row_scores == pytest.approx(merged["kl"].row_scores, rel=1e-4)


def test_the_tokens_of_a_generated_completion_are_scored_and_not_those_of_its_text(model, reference, tokenizer):
    ids = tokenizer("b <pad> c")["input_ids"]
    generated = Completion(0, 0, "b c", 3, False, token_ids=ids)
    found = divergence(model, reference, tokenizer, PROMPTS, [generated])
    expected = divergence(model, reference, tokenizer, PROMPTS, [Completion(0, 0, "b <pad> c", 3, False)])
    assert {name: score.value for name, score in found.items()} == {n: s.value for n, s in expected.items()}
    assert "along:the generated tokens" in found["kl"].signature
    assert "along:the completions, tokenised anew" in expected["kl"].signature
    own = perplexity(model, tokenizer, PROMPTS, [generated])
    assert own.value == pytest.approx(found["own_perplexity"].value, rel=1e-6)
    other = Completion(0, 0, "d e", 3, False, token_ids=ids)  # the tokens of a model with another tokenizer
    plain = Completion(0, 0, "d e", 2, False)
    assert perplexity(model, tokenizer, PROMPTS, [other]).value == perplexity(model, tokenizer, PROMPTS, [plain]).value


def test_a_batch_has_at_most_a_gibibyte_of_logits():
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(vocab_size=152_064, n_embd=8, n_layer=1, n_head=1))
    pairs = [([1] * 10, [2] * 290)] * 32  # 291 positions of 608,256 bytes each: 177 MB
    assert [len(rows) for rows in likelihood._batches([model], pairs, 32)] == [6, 6, 6, 6, 6, 2]
    assert [len(rows) for rows in likelihood._batches([model, model], pairs, 32)] == [3] * 10 + [2]
    assert [len(rows) for rows in likelihood._batches([model], pairs[:5], 4)] == [4, 1]
    assert sorted(row for rows in likelihood._batches([model], pairs, 32) for row in rows) == list(range(32))


def test_models_of_other_vocabularies_raise(model, tokenizer):
    other = GPT2LMHeadModel(GPT2Config(vocab_size=13, n_positions=32, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="`reference` must have the 12 tokens of the policy, got 13"):
        divergence(model, other, tokenizer, PROMPTS, COMPLETIONS)


WORDS = ["<eos>", "a", "b"]


def small(seed):
    torch.manual_seed(seed)
    sizes = {"vocab_size": 3, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, initializer_range=0.8)).eval()


@torch.no_grad()
def text_log_prob(model, ids, completion):
    logits = model(torch.tensor([ids + completion])).logits[0].double().log_softmax(-1)
    return sum(float(logits[len(ids) - 1 + place, token]) for place, token in enumerate(completion))


def test_the_expected_kl_over_all_texts_of_two_tokens_is_that_of_the_two_policies():
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="a"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    policy, reference, prompt = small(1), small(2), [1, 2]
    texts = [[0], *([first, second] for first, second in itertools.product([1, 2], [0, 1, 2]))]
    log_p, log_q = ([text_log_prob(model, prompt, ids) for ids in texts] for model in (policy, reference))
    assert sum(map(math.exp, log_p)) == pytest.approx(1)
    exact = sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))
    assert exact > 0.05

    completions = [
        Completion(0, sample, " ".join(WORDS[token] for token in ids if token), len(ids), ids[-1] == 0)
        for sample, ids in enumerate(texts)
    ]
    along = divergence(policy, reference, tokenizer, ["a b"], completions)["kl"].row_scores
    assert sum(math.exp(p) * kl for p, kl in zip(log_p, along, strict=True)) == pytest.approx(exact, rel=1e-5)

    decoding = Decoding(max_new_tokens=2, do_sample=True, num_samples=4000)
    sampled = generate_completions(policy, tokenizer, ["a b"], decoding, progress=False)
    found = divergence(policy, reference, tokenizer, ["a b"], sampled, batch_size=1000)["kl"]
    error = torch.tensor(found.row_scores).std().item() / math.sqrt(4000)
    assert found.value == pytest.approx(exact, abs=4 * error) and error < 0.02


def test_a_pooled_perplexity_is_that_of_all_tokens():
    surprise, tokens = torch.tensor([2.0, 6.0, 0.0], dtype=torch.float64), torch.tensor([2, 2, 0])
    score = pooled_perplexity("p", "model:m", surprise, tokens)
    assert score.value == pytest.approx(math.exp(8 / 4))
    assert score.row_scores[:2] == pytest.approx([math.e, math.exp(3)]) and math.isnan(score.row_scores[2])
    assert score.signature.startswith("model:m|") and score.higher_is_better is False
