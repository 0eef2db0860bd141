"""PAD and POISON: padding on either side, and whatever stands on it, changes nothing."""

from pathlib import Path

import pytest
import torch
from training import ALGORITHMS, LEARNED, PASSES, gradients, loss_of, make_trainer, one_rollout
from transformers import AutoModelForCausalLM

from lmrl.critics import attach_critic, get_critic
from lmrl.models import add_scoring_forward, check_scoring_forward
from lmrl.trainers import Rollout

PROMPT, COMPLETION = [6, 7, 8, 9], [10, 11, 1]


def _score(model, prompt_padding: int, completion_padding: int):
    ids = torch.tensor([[0] * prompt_padding + PROMPT + COMPLETION + [0] * completion_padding])
    mask = torch.tensor([[0] * prompt_padding + [1] * 7 + [0] * completion_padding])
    return model(input_ids=ids, attention_mask=mask, completion_length=3 + completion_padding, with_values=True)


@pytest.mark.parametrize("fixture", ["gpt2_path", "llama_path"])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("scoring_pass", PASSES)
def test_padding_changes_neither_log_probs_nor_entropy_nor_values(
    scoring_pass: str, fixture: str, separate: bool, request: pytest.FixtureRequest
) -> None:
    model = AutoModelForCausalLM.from_pretrained(request.getfixturevalue(fixture)).eval()
    own = model(torch.tensor([PROMPT + COMPLETION])).logits[0, 3:6].log_softmax(-1)
    expected = own.gather(1, torch.tensor(COMPLETION).unsqueeze(1)).squeeze(1)
    backbone = AutoModelForCausalLM.from_pretrained(request.getfixturevalue(fixture)).base_model.eval()
    add_scoring_forward(model)
    check_scoring_forward(model, 1.0, scoring_pass)
    attach_critic(model, backbone if separate else None)
    torch.nn.init.normal_(get_critic(model).value.weight)
    alone, padded = _score(model, 0, 0), _score(model, 5, 2)
    assert torch.allclose(alone.log_probs[0], expected, atol=1e-5)
    assert torch.allclose(alone.entropy[0], -(own.exp() * own).sum(-1), atol=1e-5)
    for name in ("log_probs", "entropy", "state_values"):
        assert torch.allclose(padded[name][:, :3], alone[name], atol=1e-5), name
        assert (padded[name][:, 3:] == 0).all(), name
    assert alone.state_values.abs().min() > 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("scoring_pass", PASSES)
def test_poison_on_padding_changes_neither_loss_nor_gradient(
    scoring_pass: str, algorithm: str, gpt2_path: str, tmp_path: Path
) -> None:
    options = {"num_iterations": 2, "scoring_pass": scoring_pass, **LEARNED[algorithm]}
    trainer = make_trainer(algorithm, gpt2_path, tmp_path, **options)
    rollout = one_rollout(trainer)
    rollout.completion_mask[0, 2:] = 0  # make sure that there is padding
    clean = rollout.map(torch.clone)
    padding = rollout.completion_mask == 0
    tensors = rollout.to_dict()
    for name in ("old_log_probs", "ref_log_probs", "old_values"):
        if name in tensors:
            tensors[name] = tensors[name].masked_fill(padding, float("nan"))
    tensors["completion_ids"] = tensors["completion_ids"].masked_fill(padding, 33)
    results = []
    for rows in (clean, Rollout.from_dict(tensors)):
        trainer.model.zero_grad()
        loss = loss_of(trainer, rows.with_credit(trainer.credit(rows)))
        loss.backward()
        results.append((loss.detach(), gradients(trainer)))
    assert torch.equal(results[0][0], results[1][0])
    for name, gradient in results[0][1].items():
        assert torch.allclose(gradient, results[1][1][name], atol=1e-7), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_mask_ends_with_the_first_eos_and_not_at_the_pad_id(
    algorithm: str, gpt2_path: str, tmp_path: Path
) -> None:
    trainer = make_trainer(algorithm, gpt2_path, tmp_path)
    trainer._tokenizer.pad_token = trainer._tokenizer.eos_token  # as for GPT-2, which has no pad token
    drawn = [[10, 11, 1], [12, 1], [13] * 8, [1]] * 2
    trainer._generate_single_turn = lambda *_: [list(ids) for ids in drawn]
    rollout = one_rollout(trainer)
    assert rollout.completion_mask.sum(1).tolist() == [3, 2, 8, 1] * 2
    loss_of(trainer, rollout).backward()
    eos_row = trainer.model.lm_head.weight.grad[1]
    assert eos_row.abs().max() > 0


def test_log_probs_through_the_chunks_equal_those_of_all_at_once(
    gpt2_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(gpt2_path).eval()
    add_scoring_forward(model, temperature=0.7)
    results = []
    for elements in (64 * 2, 2**25):  # two rows of logits at a time, and all of them
        monkeypatch.setattr("lmrl.models.log_probs._CHUNK_ELEMENTS", elements)
        out = model(input_ids=torch.arange(4, 24).view(2, 10), attention_mask=torch.ones(2, 10), completion_length=7)
        model.zero_grad()
        (out.log_probs.sum() + 0.3 * out.entropy.sum()).backward()
        results.append((out.log_probs.detach(), model.lm_head.weight.grad.clone()))
    own = model(torch.arange(4, 24).view(2, 10)).logits[:, 2:-1].div(0.7).log_softmax(-1)
    expected = own.gather(2, torch.arange(4, 24).view(2, 10)[:, 3:, None]).squeeze(2)
    model.zero_grad()
    (expected.sum() - 0.3 * (own.exp() * own).sum()).backward()
    for log_probs, gradient in results:
        assert torch.allclose(log_probs, expected, atol=1e-5)
        assert torch.allclose(gradient, model.lm_head.weight.grad, atol=1e-4)
