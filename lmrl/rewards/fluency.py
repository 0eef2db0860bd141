"""The log-probability of a text under a language model as a reward."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lmrl.libraries import Tensor, torch, transformers
from lmrl.utils import check_at_least, tokenize_prompt

from .base import Columns, Prompts, Scores
from .models import Encoded, FrozenModel, load_complete


@dataclass(eq=False, repr=False)
class Fluency(FrozenModel):
    """
    Returns the mean log-probability of a completion's tokens under a frozen language model, in (-inf, 0].

    `(1 / T) * sum over t of log p(y_t | y_<t)`, in nats per token: minus the logarithm of the completion's perplexity.
    The mean, not the sum, so that a completion is not better for being short; the EOS that ends it is not counted.
    Under most models a text that repeats itself is very likely, so that a policy rewarded for fluency alone learns to
    repeat itself: combine it with a reward for content.

    An empty completion has no token to average over and gets `None`: the reward does not apply to it.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            That of [`FrozenModel`], a causal language model; not the policy itself.
        max_length (`int`, *optional*):
            Longest input in tokens, at least 2. Defaults to the most that the tokenizer and the model allow. Longer
            ones lose the beginning of the prompt, then the end of the completion, with a warning.
        use_prompt (`bool`, *optional*, defaults to `False`), chat_template_kwargs (`dict`, *optional*):
            Whether the model reads the prompt before the completion; a chat goes through its chat template with these
            variables. By default it reads the completion alone, after a BOS token, or EOS if it has no BOS.
        name (defaults to `"fluency"`), batch_size (defaults to 16), tokenizer, device:
            Those of [`FrozenModel`].

    Raises:
        ValueError: If the checkpoint is no causal language model, or its tokenizer has neither BOS nor EOS.
    """

    kind: ClassVar[str] = "language model"

    batch_size: int = field(default=16, kw_only=True)
    name: str = field(default="fluency", kw_only=True)
    chat_template_kwargs: dict[str, Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_at_least(2, max_length=self.max_length)  # a token and the one before it
        super().__post_init__()
        self.range = (-math.inf, 0.0)
        if self._tokenizer.bos_token_id is None and self._tokenizer.eos_token_id is None:
            raise ValueError(
                "`tokenizer` must have a BOS or an EOS token, for the first token to follow, got one without. Set its "
                "`bos_token` and pass it."
            )
        self._signature = f"fluency|model:{self._model_name}|per:token|max:{self.max_length}|prompt:{self.use_prompt}"
        self._signature += f"|template:{self.chat_template_kwargs}" if self.chat_template_kwargs else ""

    def _load(self, name: str) -> Any:
        remedy = "Name a causal language model, not a bare backbone or a classifier."
        return load_complete(transformers.AutoModelForCausalLM, name, self.kind, remedy)

    def scores(self, completions: list[str], prompts: Prompts, columns: Columns) -> Scores:
        """Returns the mean log-probability of each text; `None` of an empty one."""
        given = self._given_prompts(prompts) if self.use_prompt else [""] * len(completions)
        contexts = [self._context(row, prompt) for row, prompt in enumerate(given)]
        texts = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in completions]
        known = [row for row, ids in enumerate(texts) if ids]
        cut = sum(len(contexts[row]) + len(texts[row]) > (self.max_length or math.inf) for row in known)
        rewards = iter(self._rewards([self._encoded(contexts[row], texts[row]) for row in known], cut))
        return [next(rewards) if ids else None for ids in texts]

    def _context(self, row: int, prompt: Any) -> list[int]:
        """Returns the tokens before a completion: the prompt's, or else a single BOS or EOS."""
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        ids = tokenize_prompt(self._tokenizer, prompt, row, **(self.chat_template_kwargs or {})) if prompt else []
        return ids or [eos if bos is None else bos]

    def _encoded(self, context: list[int], text: list[int]) -> Encoded:
        if self.max_length is not None:
            context = context[-max(1, self.max_length - len(text)) :]
            text = text[: self.max_length - len(context)]
        ids = context + text
        return {
            "input_ids": ids,
            "attention_mask": [1] * len(ids),
            "completion_mask": [0] * len(context) + [1] * len(text),
        }

    def _read(self, batch: dict[str, Tensor]) -> Tensor:
        targets = batch["input_ids"][:, 1:]
        mask = batch.pop("completion_mask")[:, 1:].bool()
        logits = self._model(**batch).logits[:, :-1]
        # Only the logits of the completions' tokens are copied to float32.
        nats = torch.nn.functional.cross_entropy(logits[mask].float(), targets[mask], reduction="none")
        sums = torch.zeros(mask.shape, device=nats.device).masked_scatter(mask, nats).sum(dim=1)
        return -sums / mask.sum(dim=1)
