"""The reward model reads what RewardTrainer reads: its scores are those of the trainer's own batches."""

import pickle

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tiny import tiny_tokenizer
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer

from lmrl.progress import Prefixes
from lmrl.rewards import RewardModel, make_reward
from lmrl.rewards.reward_model import format_for_reward_model

PROMPTS = ["a b ->", "c ->", "d e f g"]
CHOSEN = [" h i", "", " j k l m n o p <eos>"]
REJECTED = [" q", " r s", " t"]


def chat(role, text):
    return [{"role": role, "content": text}]


TEXTS = {"prompt": PROMPTS, "chosen": CHOSEN, "rejected": REJECTED}
CHATS = {
    "prompt": [chat("user", text) for text in PROMPTS],
    "chosen": [chat("assistant", text) for text in CHOSEN],
    "rejected": [chat("assistant", text) for text in REJECTED],
}


def without_prompt(rows):
    return {key: rows[key] for key in ("chosen", "rejected")}


def make_trainer(base, folder, rows, **options):
    config = RewardConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, save_strategy="no"
    )
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    torch.nn.init.normal_(model.score.weight, std=0.1)
    tokenizer = tiny_tokenizer()
    return RewardTrainer(model, config, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer, **options)


def trainer_scores(trainer):
    """Returns the logits that the trainer's loss is made of, chosen then rejected."""
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(len(trainer.train_dataset))])
    with torch.no_grad():
        return trainer.model.eval()(**batch).logits.squeeze(-1).tolist()


def our_scores(reward, rows):
    prompts = rows.get("prompt")
    return [score for key in ("chosen", "rejected") for score in reward(completions=rows[key], prompts=prompts)]


@pytest.mark.parametrize("base", ["gpt2_path", "llama_path"])
@pytest.mark.parametrize("rows", [TEXTS, CHATS], ids=["texts", "chats"])
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_the_score_is_that_of_the_trainers_own_batch(request, tmp_path, base, rows, batch_size):
    trainer = make_trainer(request.getfixturevalue(base), tmp_path, rows)
    trainer.save_model()
    reward = RewardModel(str(tmp_path), batch_size=batch_size)
    assert our_scores(reward, rows) == pytest.approx(trainer_scores(trainer), abs=1e-6)


@pytest.mark.parametrize("rows", [TEXTS, CHATS], ids=["texts", "chats"])
def test_without_prompts_the_completion_is_read_alone(gpt2_path, tmp_path, rows):
    rows = without_prompt(rows)
    trainer = make_trainer(gpt2_path, tmp_path, rows)
    trainer.save_model()
    reward = RewardModel(str(tmp_path), use_prompt=False)
    assert our_scores(reward, rows) == pytest.approx(trainer_scores(trainer), abs=1e-6)


def test_an_adapter_is_read_with_its_head_on_its_base(gpt2_path, tmp_path):
    lora = LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False)
    trainer = make_trainer(gpt2_path, tmp_path, TEXTS, peft_config=lora)
    trainer.save_model()
    assert (tmp_path / "adapter_config.json").is_file()
    assert our_scores(RewardModel(str(tmp_path)), TEXTS) == pytest.approx(trainer_scores(trainer), abs=1e-6)


def test_an_adapter_without_a_head_is_refused(gpt2_path, tmp_path):
    trainer = make_trainer(gpt2_path, tmp_path, TEXTS, peft_config=LoraConfig(r=2))
    trainer.save_model()
    with pytest.raises(ValueError, match=r"all weights.*without \['score.weight'\].*trained as a reward model"):
        RewardModel(str(tmp_path))


def test_a_language_model_is_refused(gpt2_path):
    """Its head would be a random one, and the reward noise."""
    with pytest.raises(ValueError, match=r"all weights.*without \['score.weight'\].*trained as a reward model"):
        RewardModel(gpt2_path)


def test_a_model_of_several_labels_is_refused(gpt2_path):
    model = AutoModelForSequenceClassification.from_pretrained(gpt2_path, num_labels=3)
    with pytest.raises(ValueError, match=r"must have one logit, got .* with 3 labels. Use `Classifier`"):
        RewardModel(model)


@pytest.fixture(scope="module")
def folder(gpt2_path, tmp_path_factory):
    place = tmp_path_factory.mktemp("reward")
    make_trainer(gpt2_path, place, TEXTS).save_model()
    return str(place)


def test_a_text_ends_in_one_eos_and_a_chat_as_its_template_does():
    tokenizer = tiny_tokenizer()
    ids = tokenizer.convert_tokens_to_ids

    def formatted(prompt, completion):
        return format_for_reward_model(tokenizer, prompt, completion)["input_ids"]

    assert formatted("a", " b") == formatted("a", " b <eos>") == ids(["a", "b", "<eos>"])
    assert formatted(None, "b") == ids(["b", "<eos>"])
    expected = ids(["user", "a", "assistant", "b"])
    assert formatted(chat("user", "a"), chat("assistant", "b")) == expected
    assert formatted(chat("user", "a"), "b") == expected
    assert formatted("a ", chat("assistant", "b")) == ids(["a", "b", "<eos>"])
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="must have an EOS token"):
        formatted("a", " b")


def test_the_score_does_not_depend_on_the_others_of_the_batch(folder):
    reward = RewardModel(folder)
    alone = [reward(completions=[text], prompts=[prompt])[0] for prompt, text in zip(PROMPTS, CHOSEN, strict=True)]
    assert reward(completions=CHOSEN, prompts=PROMPTS) == pytest.approx(alone, abs=1e-6)


def test_a_model_without_a_padding_token_gets_one(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.config.pad_token_id = None
    reward = RewardModel(model, tokenizer=tiny_tokenizer())
    expected = RewardModel(folder)(completions=CHOSEN, prompts=PROMPTS)
    assert reward(completions=CHOSEN, prompts=PROMPTS) == pytest.approx(expected, abs=1e-6)


def test_a_long_text_loses_its_beginning_with_a_warning(folder):
    reward = RewardModel(folder, max_length=3)
    with pytest.warns(UserWarning, match="cut 1 of 2 texts to 3 tokens"):
        cut, short = reward(completions=[" d e", " e"], prompts=["a b c", ""])
    assert [cut, short] == pytest.approx(RewardModel(folder)(completions=[" d e", " e"], prompts=["", ""]), abs=1e-6)


def test_prompts_are_required(folder):
    with pytest.raises(ValueError, match="needs `prompts`"):
        RewardModel(folder)(completions=["a"])


def test_given_by_name_it_pickles_without_its_weights(folder):
    reward = RewardModel(folder)
    before = our_scores(reward, TEXTS)
    copy = pickle.loads(pickle.dumps(reward))
    assert "_model" not in vars(copy)
    assert our_scores(copy, TEXTS) == before


def test_a_configuration_makes_a_reward_model(folder):
    reward = make_reward({"reward_model": {"model": folder, "name": "people"}})
    assert (reward.__name__, reward.range) == ("people", (float("-inf"), float("inf")))
    assert reward.signature == f"reward_model|model:{folder}|max:64|cut:left|prompt:True"


def test_no_completions_have_no_scores(folder):
    assert RewardModel(folder)(completions=[], prompts=[]) == []


@pytest.mark.parametrize("base", ["gpt2_path", "llama_path"])
def test_progress_is_the_head_at_the_last_complete_word_of_the_pass_it_makes(base, request, monkeypatch):
    """Whatever follows, and without a further pass once it is known that the head reads no later token."""
    model = AutoModelForSequenceClassification.from_pretrained(request.getfixturevalue(base), num_labels=1)
    torch.nn.init.normal_(model.score.weight, std=0.1)
    reward = RewardModel(model, tokenizer=tiny_tokenizer())
    texts = [" h i j", " h i k l"]
    prefixes = [Prefixes(" h i j", [0, 2, 4]), Prefixes(" h i k l", [0, 2, 4, 6])]
    prompts = ["a b ->"] * 2
    reward(completions=texts, prompts=prompts)
    first, second = reward.progress(prefixes=prefixes, prompts=prompts)
    assert first[:3] == [pytest.approx(row, abs=1e-5) for row in second[:3]]
    ids = torch.tensor([tiny_tokenizer()("a b -> h i k l").input_ids])
    states = model.base_model(ids).last_hidden_state
    at_words = model.score(states)[0, :, 0].tolist()
    assert [row[0] for row in second[1:]] == pytest.approx(at_words[2:5], abs=1e-5)
    reward(completions=texts, prompts=prompts)
    monkeypatch.setattr(reward, "_rewards", None)
    assert reward.progress(prefixes=prefixes, prompts=prompts) == [first, second]


def test_there_is_no_progress_of_chats(gpt2_path):
    model = AutoModelForSequenceClassification.from_pretrained(gpt2_path, num_labels=1)
    prefixes = [Prefixes("h i", [0, 1])]
    numbers = RewardModel(model, tokenizer=tiny_tokenizer()).progress(prefixes=prefixes, prompts=[chat("user", "a")])
    assert numbers == [[[], []]]
