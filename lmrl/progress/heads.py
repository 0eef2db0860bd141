"""The outputs of a model's head for each token of a text, taken from the pass that a reward makes anyway."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from .prefixes import Prefixes, Progress
from .units import at_words

TOLERANCE = 1e-3  # largest change of outputs if the last token changes; packing and rounding change less
Ids = tuple[int, ...]


class HeadOutputs:
    """The outputs of a model's head, the module `score`, for the tokens of the texts of the newest batch."""

    def __init__(self) -> None:
        self._of_texts: dict[Ids, list[float]] = {}
        self._is_causal: bool | None = None  # not known yet

    def clear(self) -> None:
        """Forgets the texts so far."""
        self._of_texts.clear()

    def run(self, model: Any, batch: dict[str, Any]) -> Any:
        """Returns the output of a model for a batch of tensors, and keeps those of its head, if it has one label."""
        outputs: list[Any] = []
        head = getattr(model, "score", None)  # of the models whose head reads every state
        hook: Any = contextlib.nullcontext()
        if head is not None:
            hook = head.register_forward_hook(lambda _, __, output: outputs.append(output))
        with hook:
            result = model(**batch)
        if outputs and outputs[0].dim() == 3:
            # Off the device once for a batch, not for each text.
            masks = batch["attention_mask"].bool().cpu()
            texts = zip(batch["input_ids"].cpu(), masks, outputs[0][..., 0].float().cpu(), strict=True)
            for ids, mask, values in texts:
                self._of_texts[tuple(ids[mask].tolist())] = values[mask].tolist()
        return result

    def progress(
        self,
        prefixes: Sequence[Prefixes],
        prompts: Sequence[str],
        encoded: Sequence[Any],
        score: Callable[[list[Ids]], Any],
        vocab_size: int,
    ) -> Progress | None:
        """
        Returns the output at the last complete word before each token, 0 before the first; None for a model without
        such outputs, or whose states read what follows.

        Args:
            prefixes, prompts:
                Completions, and the text before each.
            encoded (list of [`~transformers.BatchEncoding`]):
                Tokens of both together, with their offsets.
            score (`Callable`):
                Runs the model on token ids of texts whose outputs are not known yet.
            vocab_size (`int`):
                Number of tokens of the model.
        """
        keys = [tuple(text["input_ids"]) for text in encoded]
        if missing := [key for key in keys if key not in self._of_texts]:
            score(missing)
        if not all(key in self._of_texts and text.encodings for key, text in zip(keys, encoded, strict=True)):
            return None
        if keys and not self._reads_left_alone(max(keys, key=len), score, vocab_size):
            return None
        rows = zip(prefixes, prompts, keys, encoded, strict=True)
        return [
            [[value] for value in at_words(each, prompt, text.encodings[0].offsets, self._of_texts[key])]
            for each, prompt, key, text in rows
        ]

    def _reads_left_alone(self, ids: Ids, score: Callable[[list[Ids]], Any], vocab_size: int) -> bool:
        """Returns whether the model is causal: the outputs before the last token stay when that is another one."""
        if self._is_causal is None:
            ids = ids if len(ids) > 2 else ids * 3
            other = (*ids[:-1], (ids[-1] + 1) % vocab_size)
            score([ids, other])
            pairs = zip(self._of_texts[ids][:-1], self._of_texts[other][:-1], strict=True)
            self._is_causal = all(abs(a - b) <= TOLERANCE * max(1, abs(a)) for a, b in pairs)
        return self._is_causal
