"""The environment: the checkers of Gymnasium, agreement with the trainers, and learning in it."""

import pickle
import re
import subprocess
import sys
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from datasets import Dataset
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3
from tiny import WORDS, tiny_tokenizer
from training import PROMPTS, make_trainer, one_rollout, share_of_letters
from transformers import AutoModelForCausalLM

from lmrl.envs import TextGeneration
from lmrl.rewards import BLEU, Length

ROWS = [
    {"prompt": "b c", "references": ["a b a"], "number": 1},
    {"prompt": "d", "references": ["a", "b"], "number": 2},
    {"prompt": [{"role": "user", "content": "e f"}], "references": ["c"], "number": 3},
]
EOS = WORDS.index("<eos>")


def make(rows: Any = ROWS, reward: Any = share_of_letters, **options: Any) -> TextGeneration:
    return TextGeneration(rows, tiny_tokenizer(), reward, **{"max_completion_length": 5, **options})


def write(env: TextGeneration, words: str, row: int = 0) -> list[tuple[Any, ...]]:
    """Returns what the steps of an episode give whose tokens are these words."""
    env.reset(options={"row": row})
    return [env.step(WORDS.index(word)) for word in words.split()]


@pytest.mark.parametrize("allowed", [None, [EOS, 5, 7]])
def test_the_checkers_find_nothing_to_warn_of(allowed: list[int] | None) -> None:
    options = {"rows": ROWS, "tokenizer": tiny_tokenizer(), "reward_funcs": [BLEU(), Length(3)]}
    made = gymnasium.make("lmrl/TextGeneration-v0", **options, allowed_tokens=allowed, render_mode="ansi")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(made.unwrapped)
        check_env_of_sb3(made.unwrapped)


def test_the_newest_token_is_always_the_last() -> None:
    env = make(max_prompt_length=4)
    observation, info = env.reset(options={"row": 0})
    assert observation["tokens"].tolist() == [0] * 7 + [WORDS.index("b"), WORDS.index("c")]
    assert observation["mask"].tolist() == [0] * 7 + [1, 1]
    assert info == {"row": 0, "prompt": "b c", "columns": {"references": ["a b a"], "number": 1}}
    observation, reward, terminated, truncated, info = env.step(WORDS.index("x"))
    assert observation["tokens"].tolist() == [0] * 6 + [WORDS.index(word) for word in "bcx"]
    assert observation["mask"].tolist() == [0] * 6 + [1, 1, 1]
    assert (reward, terminated, truncated, info) == (0.0, False, False, {"row": 0, "prompt": "b c"})


def test_an_episode_ends_with_eos_or_its_last_token_and_is_rewarded_either_way() -> None:
    env = make(reward=[BLEU(), Length(3)], reward_weights=[1.0, 0.5])
    *before, (_, reward, terminated, truncated, info) = write(env, "a b a <eos>")
    assert [step[1:4] for step in before] == [(0.0, False, False)] * 3
    assert (reward, terminated, truncated, info["finished"]) == (1.5, True, False, True)
    assert info["completion"] == "a b a" and info["completion_ids"] == [3, 4, 3, EOS]
    assert info["rewards"] == {"bleu": 1.0, "length": 1.0}
    *before, (_, reward, terminated, truncated, info) = write(env, "a b a b b")
    assert (terminated, truncated, info["finished"], info["completion"]) == (True, False, False, "a b a b b")
    assert reward == BLEU()(completions=["a b a b b"], references=[["a b a"]])[0] + 0.5 * 3 / 5


def test_the_reward_gets_what_a_trainer_gives_it(gpt2_path: str, tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []

    def spy(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        calls.append({"prompts": prompts, "completions": completions, **columns})
        return [sum(map(ord, text)) / 1000 for text in completions]

    rows = [{"prompt": prompt, "number": place} for place, prompt in enumerate(PROMPTS)]
    trainer = make_trainer("reinforce", gpt2_path, tmp_path, spy, train_dataset=Dataset.from_list(rows))
    rollout = one_rollout(trainer)
    trained = calls.pop()
    env = make(rows, spy, max_completion_length=8)
    for place, ids in enumerate(trained["completion_ids"]):
        observation, _ = env.reset(options={"row": trained["number"][place]})
        assert observation["tokens"][observation["mask"] == 1].tolist() == (
            rollout.prompt_ids[place][rollout.prompt_mask[place] == 1].tolist()
        )
        steps = [env.step(token) for token in ids]
        assert [step[2] for step in steps] == [False] * (len(ids) - 1) + [True]
        given = calls.pop()
        assert given == {name: trained[name][place : place + 1] for name in given}
        assert {"prompts", "completions", "completion_ids", "number"} == set(given)
        assert steps[-1][1] == pytest.approx(rollout.rewards[place].item(), abs=1e-6)


def test_the_completion_of_a_chat_is_a_message() -> None:
    given: list[Any] = []

    def politeness(completions: list[Any], **_: Any) -> list[float]:
        given.extend(completions)
        return [1.0]

    env = make(reward=politeness, render_mode="ansi")
    observation, _ = env.reset(options={"row": 2})
    assert env.tokenizer.decode(observation["tokens"][observation["mask"] == 1]) == "user e f assistant"
    write(env, "a <eos>", row=2)
    assert given == [[{"role": "assistant", "content": "a"}]]
    assert env.render() == "user: e f\na"


def test_a_language_model_acts_in_it_as_it_generates(gpt2_path: str) -> None:
    env = make(ROWS[:2], max_completion_length=12)
    model = AutoModelForCausalLM.from_pretrained(gpt2_path).eval()
    for row in (0, 1):
        observation, _ = env.reset(options={"row": row})
        over = False
        while not over:
            tokens, mask = (torch.tensor(observation[name])[None].long() for name in ("tokens", "mask"))
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            with torch.no_grad():
                logits = model(input_ids=tokens, attention_mask=mask, position_ids=positions).logits
            observation, reward, over, _, info = env.step(logits[0, -1].argmax().item())
        prompt = torch.tensor([env.prompt_ids[row]])
        generated = model.generate(prompt, max_new_tokens=12, do_sample=False, attention_mask=torch.ones_like(prompt))
        assert info["completion_ids"] == generated[0, prompt.shape[1] :].tolist()
        assert (
            reward
            == share_of_letters([env.tokenizer.decode(generated[0, prompt.shape[1] :], skip_special_tokens=True)])[0]
        )


def test_seeds_choose_the_prompts() -> None:
    env = make(ROWS[:2])
    drawn = [[env.reset(seed=seed)[1]["row"], *(env.reset()[1]["row"] for _ in range(20))] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2] and set(drawn[0]) == {0, 1}


def test_it_runs_in_vectors_and_processes() -> None:
    options = {"rows": ROWS[:2], "tokenizer": tiny_tokenizer(), "reward_funcs": share_of_letters}
    envs = gymnasium.make_vec("lmrl.envs:lmrl/TextGeneration-v0", num_envs=3, max_completion_length=2, **options)
    observation, _ = envs.reset(seed=3)
    assert observation["tokens"].shape == (3, 4)
    letter, digit = WORDS.index("q"), WORDS.index("7")
    envs.step(np.array([letter, digit, letter]))
    _, reward, terminated, truncated, info = envs.step(np.array([letter, digit, digit]))
    assert reward.tolist() == [2 / 3, 0.0, 1 / 3] and terminated.all() and not truncated.any()
    assert info["completion"].tolist() == ["q q", "7 7", "q 7"]
    again = pickle.loads(pickle.dumps(make(reward=BLEU())))
    assert write(again, "a b a <eos>")[-1][1] == 1.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rows": []}, "`rows` must have at least one row, got none"),
        (
            {"rows": [{"prompt": "a"}, {"text": "b"}]},
            "`rows` must have prompts, got none in row 1. Fill it in",
        ),
        ({"max_prompt_length": 1}, "A prompt must have 1 to 1 tokens, got 2 in row 0"),
        ({"rows": [{"prompt": " "}]}, "A prompt must have at least 1 token, got 0 in row 0"),
        ({"max_completion_length": 0}, "`max_completion_length` must be at least 1, got 0"),
        ({"allowed_tokens": [1, 64]}, "`allowed_tokens` must be two or more different ids from 0 to 63, got 64"),
        ({"allowed_tokens": [5]}, "`allowed_tokens` must be two or more different ids from 0 to 63, got [5]"),
        ({"reward": []}, "`reward_funcs` must be functions of different names, at least one, got []"),
        ({"reward": [BLEU(), BLEU()]}, "of different names"),
        ({"reward_weights": [1.0, 2.0]}, "`reward_weights` must have 1 values, got [1.0, 2.0]"),
        ({"render_mode": "human"}, "`render_mode` must be one of ansi, got 'human'"),
    ],
)
def test_arguments_out_of_range_are_refused_at_construction(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        make(**options)


def test_calls_out_of_order_or_range_are_refused() -> None:
    env = make(reward=lambda completions, **_: [None])
    with pytest.raises(ValueError, match=r"Call reset\(\) before step\(\)"):
        env.step(5)
    with pytest.raises(ValueError, match="`row` of `options` must be from 0 to 2, got 3"):
        env.reset(options={"row": 3})
    env.reset()
    with pytest.raises(ValueError, match="`action` must be an integer from 0 to 63, got 64"):
        env.step(64)
    with pytest.raises(ValueError, match=r"The rewards of row 1 must have a finite sum, got .*None"):
        write(env, "a <eos>", row=1)


def test_without_gymnasium_there_is_one_sentence() -> None:
    code = "import sys; sys.modules['gymnasium'] = None; import lmrl.envs"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    sentence = "ImportError: lmrl.envs needs gymnasium, which is not installed. Run: pip install 'lmrl[envs]'"
    assert done.stderr.splitlines()[-1] == sentence


def agreement(completions: list[str], references: list[list[str]], **_: Any) -> list[float]:
    """Returns the share of the places at which a text has the word of its reference."""
    pairs = [(text.split(), reference[0].split()) for text, reference in zip(completions, references, strict=True)]
    return [sum(a == b for a, b in zip(*pair, strict=False)) / max(map(len, pair)) for pair in pairs]


def chance(env: TextGeneration, row: int) -> float:
    """Returns the expected reward of uniform tokens, by going through all texts."""
    total = 0.0
    words = [WORDS[token] for token in env.allowed_tokens if token != EOS]
    for length in range(env.max_completion_length + 1):
        ended = 1 if length == env.max_completion_length else 1 / (len(words) + 1)
        for text in product(words, repeat=length):
            reward = agreement([" ".join(text)], [env.rows[row]["references"]])[0]
            total += reward * ended / (len(words) + 1) ** length
    return total


def test_ppo_of_stable_baselines_learns_a_text_for_each_prompt() -> None:
    rows = [
        {"prompt": "x", "references": ["a b c"]},
        {"prompt": "y", "references": ["c a"]},
        {"prompt": "z", "references": ["b b a c"]},
    ]
    allowed = [WORDS.index(word) for word in ("a", "b", "c", "d", "e")] + [EOS]
    env = make(rows, agreement, allowed_tokens=allowed)
    guessed = np.mean([chance(env, row) for row in range(3)])
    assert guessed < 0.15
    settings = {"n_steps": 512, "batch_size": 128, "n_epochs": 6, "learning_rate": 2e-3, "ent_coef": 0.01}
    model = PPO("MultiInputPolicy", env, gamma=1.0, gae_lambda=1.0, seed=0, device="cpu", **settings)
    model.learn(5120)
    written = []
    for row in range(3):
        observation, _ = env.reset(options={"row": row})
        over = False
        while not over:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, over, _, info = env.step(action)
        written.append((info["completion"], reward))
    assert np.mean([episode["r"] for episode in model.ep_info_buffer]) > 0.85  # of the last 100, sampled
    assert written == [("a b c", 1.0), ("c a", 1.0), ("b b a c", 1.0)]
