"""Steps of decoding: the forward of one more token of each row, and when all rows have ended."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# Arguments of `generate` with a value for each row; those of rows that leave the batch are removed.
ROW_ARGUMENTS = ("attention_mask", "position_ids", "token_type_ids")
LOOK_STEP = 8  # tokens between two looks at whether all rows have ended


class GrowingStep:
    """
    The forward of one more token of each row that is left, with a cache that grows: called with the ids so far,
    (R, S), it returns the logits of the next tokens, (R, V).

    Args:
        model (`transformers.PreTrainedModel`):
            Model that decodes.
        outputs (`transformers.ModelOutput`):
            What it has computed of the prompts.
        arguments (`Mapping`):
            What `generate` passed to it for the prompts.
    """

    rows_leave = True

    def __init__(self, model: Any, outputs: Any, arguments: Mapping[str, Any]) -> None:
        self.ends = EachLook()
        self.model = model
        self.arguments: dict[str, Any] = model._update_model_kwargs_for_generation(outputs, dict(arguments))

    def __call__(self, ids: Tensor) -> Tensor:
        """Returns the logits of the next tokens."""
        inputs = self.model.prepare_inputs_for_generation(ids, next_sequence_length=1, **self.arguments)
        outputs = self.model(**inputs, return_dict=True)
        self.arguments = self.model._update_model_kwargs_for_generation(outputs, self.arguments)
        return outputs.logits[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Keeps some of the rows."""
        self.arguments = of_rows(self.arguments, rows)
        self.arguments["past_key_values"].batch_select_indices(rows)


def of_rows(arguments: Mapping[str, Any], rows: Tensor) -> dict[str, Any]:
    """Returns the arguments for some of the rows; a cache is left as it is."""
    chosen = {name: value[rows] for name, value in arguments.items() if name in ROW_ARGUMENTS and value is not None}
    return {**arguments, **chosen}


class EachLook:
    """Finds out when all rows have ended by a look after each token."""

    width = None  # as many tokens as there are

    def before(self) -> None:
        """Called before each token is drawn."""

    def count(self, is_left: Tensor) -> int:
        """Returns the number of rows that are left."""
        return int(is_left.sum())


class SeldomLook:
    """
    Finds out when all rows have ended by a look every few tokens, as each look waits for a GPU.

    Tokens drawn after all rows have ended are no part of the batch, and the generator is set back to before them.

    Args:
        device (`torch.device`):
            Where rows are decoded.
        most (`int`):
            The most tokens that may be drawn, including the first one, which is drawn already.

    Attributes:
        width (`int`):
            Number of tokens of the batch, once all rows have ended.
    """

    def __init__(self, device: torch.device, most: int) -> None:
        self.width = 1
        self._most = most
        self._drawn = 1
        self._on_gpu = device.type == "cuda"
        self._device = device
        self._going_on = torch.ones((), dtype=torch.long, device=device)  # tokens after which some rows are left
        self._states: list[Tensor] = []

    def before(self) -> None:
        """Called before each token is drawn."""
        self._states.append(torch.cuda.get_rng_state(self._device) if self._on_gpu else torch.get_rng_state())

    def count(self, is_left: Tensor) -> int:
        """Returns 0 if it is known that no row is left, else 1. Called after each token with the rows left, (B,)."""
        self._drawn += 1
        self._going_on += is_left.any()
        if self._drawn % LOOK_STEP and self._drawn < self._most:
            return 1
        self.width = int(self._going_on) + 1
        if self.width < self._drawn:
            state = self._states[self.width - self._drawn]  # from before the first token that is too many
            if self._on_gpu:
                torch.cuda.set_rng_state(state, self._device)
            else:
                torch.set_rng_state(state)
        self._states.clear()
        return int(self.width > self._drawn)
