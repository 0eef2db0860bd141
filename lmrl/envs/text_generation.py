"""Text generation as a Gymnasium environment: the state is the text so far, an action the next token."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from lmrl.rewards import call_reward, reward_name
from lmrl.utils import NOT_PASSED, REWARD_ARGUMENTS, check_at_least, check_in, shorten, tokenize_prompt

Observation = dict[str, np.ndarray]


class TextGeneration(gymnasium.Env[Any, Any]):
    """
    An environment whose episodes are completions of prompts, with the rewards of the trainers.

    The observation is a `dict` of `tokens` (L,) and `mask` (L,), with L = `max_prompt_length` +
    `max_completion_length`, padded on the left: the newest token is always the last, where a causal language model has
    the logits of the next token. An action is a token. The last reward of an episode is the weighted sum of the reward
    functions, called with the text as the trainers decode it: up to EOS, without special tokens. Others are 0.

    An episode is `terminated` by EOS, or by its `max_completion_length`-th token. The latter is no truncation, whose
    value would be bootstrapped: as in the trainers, the reward is that of the cut text. `info["finished"]`
    distinguishes the two. A missing EOS is penalized only by a reward that does so.

    Args:
        rows ([`~datasets.Dataset`] or list of `dict`):
            Rows with a `"prompt"` (text or chat messages) and the columns that the rewards read.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of prompts and completions.
        reward_funcs (`Callable` or `list[Callable]`):
            Functions of `prompts`, `completions` and the columns, as for the trainers.
        max_completion_length (`int`, *optional*, defaults to `64`):
            Largest number of tokens of a completion.
        max_prompt_length (`int`, *optional*):
            Largest number of tokens of a prompt; by default that of the longest.
        allowed_tokens (list of `int`, *optional*):
            Ids that may be chosen: action `i` is the `i`-th of them, from 0. By default an action is the id itself.
        reward_weights (list of `float`, *optional*):
            Weights of the rewards. Defaults to 1 each.
        render_mode (`str`, *optional*):
            `"ansi"`: [`render`] returns the prompt and the text so far.

    Raises:
        ValueError: If there are no rows, a prompt is empty or too long, or an argument is out of its range.

    Example:

    ```python
    env = gymnasium.make("lmrl.envs:lmrl/TextGeneration-v0", rows=rows, tokenizer=tokenizer, reward_funcs=BLEU())
    ```
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012

    def __init__(
        self,
        rows: Any,
        tokenizer: Any,
        reward_funcs: Callable[..., Any] | Sequence[Callable[..., Any]],
        *,
        max_completion_length: int = 64,
        max_prompt_length: int | None = None,
        allowed_tokens: Sequence[int] | None = None,
        reward_weights: Sequence[float] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.rows: list[dict[str, Any]] = list(rows)
        self.tokenizer = tokenizer
        self.render_mode = render_mode
        self.rewards = _named(reward_funcs)
        self.reward_weights = [1.0] * len(self.rewards) if reward_weights is None else list(reward_weights)
        if len(self.reward_weights) != len(self.rewards):
            raise ValueError(f"`reward_weights` must have {len(self.rewards)} values, got {self.reward_weights}.")
        check_at_least(1, max_completion_length=max_completion_length, max_prompt_length=max_prompt_length)
        check_in(("ansi",), render_mode=render_mode)
        if tokenizer.eos_token_id is None:
            raise ValueError("`tokenizer` must have an EOS token, got one without. Set its `eos_token`.")
        self.prompt_ids = self._tokenized(max_prompt_length)
        self.max_completion_length = max_completion_length
        self.allowed_tokens = _checked_tokens(allowed_tokens, len(tokenizer))
        self.length = (max_prompt_length or max(map(len, self.prompt_ids))) + max_completion_length
        places = np.full(self.length, len(tokenizer), dtype=np.int64)
        self.observation_space = spaces.Dict(
            {"tokens": spaces.MultiDiscrete(places), "mask": spaces.MultiBinary(self.length)}
        )
        self.action_space = spaces.Discrete(len(self.allowed_tokens))
        self.row = 0
        self.completion_ids: list[int] = []
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """
        Starts an episode; returns the observation of a prompt, and `info` with its row, prompt and columns.

        Args:
            seed (`int`, *optional*):
                Seed of the order of prompts, for this episode and those after it.
            options (`dict`, *optional*):
                `{"row": 3}` selects that row; otherwise one is drawn.

        Raises:
            ValueError: If there is no such row.
        """
        super().reset(seed=seed)
        options = options or {}
        if unknown := set(options) - {"row"}:
            raise ValueError(f"`options` must have no key but 'row', got {sorted(unknown)[0]!r}.")
        drawn = int(self.np_random.integers(len(self.rows)))
        self.row = int(options.get("row", drawn))
        if not 0 <= self.row < len(self.rows):
            raise ValueError(f"`row` of `options` must be from 0 to {len(self.rows) - 1}, got {self.row}.")
        self.completion_ids = []
        self._over = False
        return self._observation(), {**self._about(), "columns": self._columns()}

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """
        Appends a token; returns the observation, the reward, `terminated`, `truncated` (always false) and `info`.

        At the end of an episode `info` has the `completion`, its `completion_ids`, whether it `finished`, and the
        `rewards` by name.

        Args:
            action (`int`):
                The token: an id, or its index in `allowed_tokens`.

        Raises:
            ValueError: If the action is out of range, the episode is over, or no reward applies to its text.
        """
        if self._over:
            raise ValueError("The episode must not be over. Call reset() before step().")
        if not self.action_space.contains(action):
            raise ValueError(f"`action` must be an integer from 0 to {len(self.allowed_tokens) - 1}, got {action!r}.")
        self.completion_ids.append(self.allowed_tokens[int(action)])
        finished = self.completion_ids[-1] == self.tokenizer.eos_token_id
        self._over = finished or len(self.completion_ids) == self.max_completion_length
        if not self._over:
            return self._observation(), 0.0, False, False, self._about()
        reward, rewards = self._reward()
        completed = {"completion": self.completion, "completion_ids": list(self.completion_ids)}
        info = {**self._about(), **completed, "finished": finished, "rewards": rewards}
        return self._observation(), reward, True, False, info

    def render(self) -> str | None:
        """Returns the prompt and, on a new line, the text so far; `None` without a render mode."""
        prompt = self.rows[self.row]["prompt"]
        text = prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)
        return f"{text}\n{self.completion}" if self.render_mode == "ansi" else None

    @property
    def completion(self) -> str:
        """The text so far, as it is passed to the rewards."""
        return str(self.tokenizer.decode(self.completion_ids, skip_special_tokens=True))

    def _observation(self) -> Observation:
        ids = self.prompt_ids[self.row] + self.completion_ids
        pad = self.tokenizer.pad_token_id
        tokens = np.full(self.length, self.tokenizer.eos_token_id if pad is None else pad, dtype=np.int64)
        mask = np.zeros(self.length, dtype=np.int8)
        tokens[-len(ids) :] = ids
        mask[-len(ids) :] = 1
        return {"tokens": tokens, "mask": mask}

    def _about(self) -> dict[str, Any]:
        return {"row": self.row, "prompt": self.rows[self.row]["prompt"]}

    def _columns(self) -> dict[str, Any]:
        left_out = (*NOT_PASSED, *REWARD_ARGUMENTS)
        return {name: value for name, value in self.rows[self.row].items() if name not in left_out}

    def _reward(self) -> tuple[float, dict[str, float | None]]:
        prompt = self.rows[self.row]["prompt"]
        text = self.completion
        inputs = {
            "prompts": [prompt],
            "completions": [text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]],
            "completion_ids": [list(self.completion_ids)],
            **{name: [value] for name, value in self._columns().items()},
        }
        rewards = {name: call_reward(reward, **inputs)[0] for name, reward in self.rewards.items()}
        weighted = zip(self.reward_weights, rewards.values(), strict=True)
        parts = [weight * value for weight, value in weighted if value is not None]
        if not parts or not np.isfinite(parts).all():
            text = shorten(text)
            raise ValueError(f"The rewards of row {self.row} must have a finite sum, got {rewards} for {text}.")
        return float(sum(parts)), rewards

    def _tokenized(self, max_prompt_length: int | None) -> list[list[int]]:
        if not self.rows:
            raise ValueError("`rows` must have at least one row, got none.")
        tokenized = []
        for number, row in enumerate(self.rows):
            if not row.get("prompt"):
                raise ValueError(f"`rows` must have prompts, got none in row {number}. Fill it in, or drop the row.")
            ids = tokenize_prompt(self.tokenizer, row["prompt"], number)
            if not ids or len(ids) > (max_prompt_length or len(ids)):
                allowed = f"1 to {max_prompt_length} tokens" if max_prompt_length else "at least 1 token"
                raise ValueError(f"A prompt must have {allowed}, got {len(ids)} in row {number}.")
            tokenized.append(ids)
        return tokenized


def _named(reward_funcs: Callable[..., Any] | Sequence[Callable[..., Any]]) -> Mapping[str, Callable[..., Any]]:
    given = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
    named = {reward_name(reward): reward for reward in given if callable(reward)}
    if not given or len(named) < len(given):
        raise ValueError(f"`reward_funcs` must be functions of different names, at least one, got {reward_funcs!r}.")
    return named


def _checked_tokens(allowed: Sequence[int] | None, vocabulary: int) -> Sequence[int]:
    if allowed is None:
        return range(vocabulary)
    outside = [token for token in allowed if not 0 <= token < vocabulary]
    if outside or len(set(allowed)) < max(len(allowed), 2):
        wrong = outside[0] if outside else list(allowed)
        raise ValueError(
            f"`allowed_tokens` must be two or more different ids from 0 to {vocabulary - 1}, got {wrong}."
        )
    return list(map(int, allowed))
