"""What is reported of a reward that raised: its name, the error, the row with its texts, the user's file and line."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from lmrl.rewards import BLEU, Cached, InWorkers, Reward, SlotCoverage, call_reward, on_text, reward_name
from lmrl.utils import failure_of, row_of

TEXTS = [f"text {number}" for number in range(6)]
PROMPTS = [prompt for prompt in ("ab", "cd", "ef") for _ in range(2)]  # one object for the completions of a prompt
CHATS = [[{"role": "assistant", "content": text}] for text in TEXTS]


def in_a_loop(completions: list[str], **_: Any) -> list[float]:
    """Raises an error that names no variable."""
    rewards = []
    for text in completions:
        if text.endswith("4"):
            raise KeyError("slot")
        rewards.append(1.0)
    return rewards


def in_a_comprehension(completions: list[str], **_: Any) -> list[float]:
    """Divides by zero."""
    return [1 / (int(text[-1]) - 4) for text in completions]


def in_a_function(completions: list[str], **_: Any) -> list[float]:
    """Passes each text, changed, to a function that knows no row."""
    return [_reciprocal(text.upper()) for text in completions]


def _reciprocal(text: str) -> float:
    return 1 / (int(text[-1]) - 4)


def by_index(completions: list[str], **_: Any) -> list[float]:
    """Has a variable for the text of a row."""
    rewards = []
    for row in range(len(completions)):
        text = completions[row]
        rewards.append(_reciprocal(text))
    return rewards


async def awaited(completions: list[str], **_: Any) -> list[float]:
    """Scores all rows at once."""

    async def score(text: str) -> float:
        await asyncio.sleep(0)
        return _reciprocal(text)

    return list(await asyncio.gather(*map(score, completions)))


class Own(Reward):
    """A subclass that scores one text at a time."""

    def __init__(self) -> None:
        super().__init__("own")

    def scores(self, completions: list[str], prompts: Any, columns: Any) -> list[float | None]:
        """Returns the reciprocals."""
        return [_reciprocal(text) for text in completions]


def failed(reward: Any, **inputs: Any) -> tuple[str, int | None]:
    """Returns the message and the row of what a reward raises."""
    inputs = {"completions": TEXTS, "prompts": PROMPTS, **inputs}
    with pytest.raises(Exception) as caught:
        call_reward(reward, **inputs)
    return failure_of(caught.value, inputs), row_of(caught.value, inputs)


@pytest.mark.parametrize(
    "reward",
    [in_a_loop, in_a_comprehension, in_a_function, by_index, awaited, Own(), Cached(in_a_loop)],
    ids=reward_name,
)
def test_the_row_at_which_a_function_raised_is_found(reward: Any) -> None:
    sentence, row = failed(reward)
    assert row == 4
    assert "It was scoring row 4 of 6 (the first is 0), the completion 'text 4' of the prompt 'ef'. See " in sentence
    assert sentence.split(", line ")[0].endswith(f"See {Path(__file__)}")


def test_the_row_of_a_chat_is_found() -> None:
    assert failed(on_text(in_a_loop), completions=CHATS)[1] == 4
    reward = lambda completions, **_: [_reciprocal(chat[0]["content"]) for chat in completions]  # noqa: E731
    assert failed(reward, completions=CHATS)[1] == 4


def test_the_row_of_a_column_is_found() -> None:
    records = [f"food[{text}]" for text in TEXTS]
    records[3] = "no slots"
    sentence, row = failed(SlotCoverage(), mr=records)
    assert row == 3 and "got 'no slots' in row 3 of the batch" in sentence


def without_rows(completions: list[str], prompts: list[str], **_: Any) -> list[float]:
    """Has looked at all rows when it raises."""
    for text in completions:
        assert text
    raise ValueError("the table is empty")


def by_prompt(completions: list[str], prompts: list[str], **_: Any) -> list[float]:
    """Raises for a prompt, of which there are two completions."""
    return [1 / (len(prompt) - 2) for prompt in prompts]


@pytest.mark.parametrize("reward", [without_rows, by_prompt])
def test_no_row_is_named_where_the_frames_show_none(reward: Any) -> None:
    sentence, row = failed(reward)
    assert row is None
    assert "It was scoring 6 completions, the first of them 'text 0'. See " in sentence


def test_an_error_in_a_worker_names_the_completion_and_the_line() -> None:
    reward = InWorkers(in_a_loop, workers=1, chunk_size=3)
    with pytest.raises(RuntimeError) as caught:
        reward(completions=TEXTS)
    sentence = str(caught.value)
    assert "failed on rows 3 to 5 of the batch: it raised KeyError: 'slot'. It was scoring row 1 of 3 " in sentence
    assert f"the completion 'text 4'. See {Path(__file__)}, line " in sentence
    with pytest.raises(RuntimeError, match=r"failed on row 0 of the batch: .* It was scoring the completion 'text 4'"):
        reward(completions=["text 4"])


def test_a_batch_that_is_scored_at_once_is_named_by_its_first_completion() -> None:
    sentence, row = failed(BLEU(), references=["a", "b", None, "d", "e", "f"])
    assert row is None and "got None in row 2 of the batch. Correct or drop the row." in sentence
