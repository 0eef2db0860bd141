"""A reward model that is an adapter of the policy's base runs on the policy's own weights, with the same scores."""

import logging
import pickle

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import tiny_gpt2
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from lmrl.models import backbone_of, load_model, offer_base_model, share_prompts
from lmrl.rewards import Cached, Clipped, Gate, InWorkers, Length, Retried, RewardModel

PROMPTS = ["a b ->", "c ->", "d e f g"]
TEXTS = [" h i", "", " j k l m n o p"]


def save_adapter(base, folder, **options):
    """Saves a reward model that is a random adapter with a random head; returns the folder."""
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    lora = LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False, **options)
    model = get_peft_model(model, lora)
    torch.nn.init.normal_(model.base_model.model.score.modules_to_save["default"].weight)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return str(folder)


def policy_on(base, **loading):
    """Returns a policy whose adapter is not the base."""
    torch.manual_seed(6)
    return get_peft_model(load_model(base, **loading), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))


def scores(reward):
    return reward(completions=TEXTS, prompts=PROMPTS)


@pytest.fixture(scope="module", params=["gpt2_path", "llama_path"])
def base(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def folder(base, tmp_path_factory):
    return save_adapter(base, tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def loaded(monkeypatch):
    """Returns a list that the places of all classifiers which are loaded are put into."""
    places = []
    original = AutoModelForSequenceClassification.from_pretrained
    monkeypatch.setattr(
        AutoModelForSequenceClassification,
        "from_pretrained",
        lambda name, **kwargs: places.append(str(name)) or original(name, **kwargs),
    )
    return places


def test_it_scores_as_it_does_alone_and_loads_no_base(base, folder, loaded):
    reward = RewardModel(folder)
    policy = policy_on(base)
    assert loaded == []
    offer_base_model(policy.get_base_model(), [reward])
    shared = scores(reward)
    assert loaded == []
    alone = scores(RewardModel(folder))
    assert loaded == [base]
    assert shared == pytest.approx(alone, abs=1e-5)
    assert max(alone) - min(alone) > 0.1


@pytest.mark.parametrize("batch_size", [32, 4])
def test_what_texts_begin_with_is_computed_once_where_the_policys_pass_does_so(batch_size, base, folder):
    words = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"]
    prompts = [f"{' '.join(words[row:] + words[:row])} ->" for row in range(3) for _ in range(4)]
    texts = [" " + " ".join(words[-1 - row % 5 :]) for row in range(12)]
    given = {"prompts": prompts[::-2] + prompts[::2], "completions": texts}
    positions = []
    found = []
    for shares in (False, True):
        policy = policy_on(base)
        if shares:
            share_prompts(backbone_of(policy.get_base_model()))
        reward = RewardModel(folder, batch_size=batch_size)
        offer_base_model(policy.get_base_model(), [reward])
        embedding = reward._model.get_base_model().get_input_embeddings()
        embedding.register_forward_pre_hook(lambda _, inputs: positions.append(inputs[0].numel()))
        found.append(reward(**given))
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert max(found[0]) - min(found[0]) > 0.01
    half = len(positions) // 2
    assert sum(positions[half:]) < 0.65 * sum(positions[:half])


def test_its_base_weights_are_the_policys(base, folder):
    reward, policy = RewardModel(folder), policy_on(base)
    offer_base_model(policy.get_base_model(), [reward])
    of_policy = {id(weight) for weight in policy.get_base_model().base_model.parameters() if not weight.requires_grad}
    own = [weight for weight in reward._model.parameters() if id(weight) not in of_policy]
    assert sum(weight.numel() for weight in own) < 0.1 * sum(weight.numel() for weight in policy.parameters())
    assert not any(weight.requires_grad for weight in own)


def test_the_policy_is_left_as_it_was(base, folder):
    policy = policy_on(base).train()
    ids = torch.tensor([[6, 7, 8, 9]])
    modes = [module.training for module in policy.modules()]
    grads = {name: weight.requires_grad for name, weight in policy.named_parameters()}
    before = policy.eval()(ids).logits
    policy.train()
    reward = RewardModel(folder)
    offer_base_model(policy.get_base_model(), [reward])
    scores(reward)
    assert [module.training for module in policy.modules()] == modes
    assert {name: weight.requires_grad for name, weight in policy.named_parameters()} == grads
    assert (policy.active_adapter, list(policy.peft_config)) == ("default", ["default"])
    assert torch.equal(policy.eval()(ids).logits, before)


def test_scores_do_not_move_with_the_policy(base, folder):
    reward, policy = RewardModel(folder), policy_on(base)
    offer_base_model(policy.get_base_model(), [reward])
    before = scores(reward)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(1.0)
    with policy.disable_adapter():
        assert scores(reward) == before
    assert scores(reward) == before


def test_rewards_that_are_made_of_it_pass_the_base_on(base, folder):
    parts = [RewardModel(folder) for _ in range(5)]
    rewards = [
        parts[0] + Length(4),
        Gate(Length(4), when=Clipped(parts[1], low=-1.0, high=1.0)),
        Cached(parts[2]),
        Retried(parts[3]),
        InWorkers(parts[4]),
    ]
    offer_base_model(policy_on(base).get_base_model(), [*rewards, Length(3), lambda completions, **_: [0.0]])
    assert [part._on_policy for part in parts] == [True, True, True, True, False]


def test_a_copy_in_another_process_loads_its_own(base, folder, loaded):
    reward = RewardModel(folder)
    offer_base_model(policy_on(base).get_base_model(), [reward])
    copy = pickle.loads(pickle.dumps(reward))
    assert scores(copy) == pytest.approx(scores(reward), abs=1e-5)
    assert loaded == [base]


def test_another_base_is_not_taken(base, folder, loaded, tmp_path, caplog):
    other = policy_on(tiny_gpt2(tmp_path / "other", seed=3))
    halved = policy_on(base, dtype="bfloat16")
    for policy, reason in ((other, "base is another one"), (halved, "held in torch.bfloat16, less precise")):
        reward = RewardModel(folder)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            offer_base_model(policy.get_base_model(), [reward])
            alone = scores(reward)
        assert reason in caplog.text and "loads a base of its own" in caplog.text
        assert alone == scores(RewardModel(folder))
    assert loaded == [base] * 4


def test_a_base_that_moves_with_the_policy_is_not_lent(gpt2_path, tmp_path):
    model = load_model(gpt2_path)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", bias="all"))
    assert model.transformer.ln_f.bias.requires_grad
    reward = RewardModel(save_adapter(gpt2_path, tmp_path))
    offer_base_model(model, [reward])
    assert not reward._on_policy and model.transformer.ln_f.bias.requires_grad


def test_an_adapter_is_checked_before_its_base_is_loaded(gpt2_path, tmp_path, loaded):
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(gpt2_path, num_labels=3)
    get_peft_model(model, LoraConfig(task_type="SEQ_CLS")).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(gpt2_path).save_pretrained(tmp_path)
    loaded.clear()
    with pytest.raises(ValueError, match=r"must have one logit, got .* with 3 labels. Use `Classifier`"):
        RewardModel(str(tmp_path))
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace(gpt2_path, "no/such/base/anywhere"))
    with pytest.raises(ValueError, match=r"`base_model_name_or_path` .* must be a model, got .no/such/base"):
        RewardModel(str(tmp_path))
    assert loaded == []
    assert AutoConfig.from_pretrained(gpt2_path).num_labels == 2
