"""Completions in the terminal: a model, with the prompt format and the settings of the run that trained it."""

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from datasets import Dataset
from transformers import TextStreamer

from lmrl.data.cells import parse_template
from lmrl.data.prompts import make_prompts
from lmrl.evaluation import Decoding
from lmrl.evaluation.encoding import Prompt, encode_prompts
from lmrl.evaluation.generation import eval_mode, generation_config, generation_config_replaced
from lmrl.experiment.policies import NO_LIMIT
from lmrl.experiment.runs import find_run, read_run
from lmrl.models import context_length, load_model, load_tokenizer
from lmrl.utils import known_as, shorten

DEFAULT_NEW_TOKENS = 128  # for a model whose run does not set the length


@dataclass(frozen=True)
class PromptSettings:
    """How a text becomes a prompt, as in [`~lmrl.arguments.DataArguments`], and how it is completed."""

    prompt_template: str | None = None
    prompt_column: str = "prompt"
    chat: bool = False
    system_prompt: str | None = None
    max_new_tokens: int = DEFAULT_NEW_TOKENS
    temperature: float = 1.0  # divisor of the logits when sampling, above 0
    chat_template_kwargs: dict[str, Any] | None = None  # variables of the chat template

    @classmethod
    def of_run(cls, path: str, **given: Any) -> "PromptSettings":
        """
        Returns the settings of the run that wrote a model, or else the defaults; the values in `given` override them.

        An empty text stands for no template, or no system message.
        """
        found: dict[str, Any] = {}
        if find_run(path) is not None:
            groups = read_run(path).settings
            training = groups.get("training", {})
            found = {"max_new_tokens": training.get("max_completion_length"), **groups.get("data", {}), **training}
            found["chat"] = found.get("chat") or found.get("system_prompt") is not None
        found |= {name: value for name, value in given.items() if value is not None}
        found |= {name: found.get(name) or None for name in ("prompt_template", "system_prompt")}
        return cls(**{name: found[name] for name in cls.__dataclass_fields__ if found.get(name) is not None})

    def make_prompt(self, text: str) -> Prompt:
        """
        Returns the prompt of a text, which is the value of the template's only field, or a row as a JSON object.

        Raises:
            ValueError: If a text is neither the value of the only field nor a row with all fields, or is empty.
        """
        row = _as_row(text)
        if self.prompt_template is not None:
            fields = list(dict.fromkeys(field for _, field, _, _ in parse_template(self.prompt_template) if field))
            if row is None and len(fields) == 1:
                row = {fields[0]: text}
            if row is None or not row.keys() >= set(filter(str.isidentifier, fields)):
                raise ValueError(
                    f"A prompt must be a JSON object with {', '.join(fields)}, the columns of the template "
                    f"{self.prompt_template!r}, got {text!r}. Without the template: --prompt_template ''."
                )
        if row is not None and self.prompt_template is None and self.prompt_column not in row:
            raise ValueError(
                f"A row must have the column {self.prompt_column!r}, as there is no prompt template, got "
                f"{shorten(text)}. Give a template with --prompt_template, as in training."
            )
        rows = Dataset.from_list([{self.prompt_column: text} if row is None else row])
        return make_prompts(rows, self.prompt_template, self.prompt_column, self.chat, self.system_prompt)[0]


class TerminalModel:
    """
    A model that prints its completions while it generates them, by sampling or, if `greedy`, the likeliest tokens.

    `path` is the folder of a run, a checkpoint or a model, plain or an adapter, or a hub id; a `ValueError` is raised
    if there is no such model. `dtype` is the precision, `"auto"` that of its files.
    """

    def __init__(self, path: str, settings: PromptSettings, greedy: bool, dtype: str) -> None:
        self.settings = settings
        self.decoding = Decoding(
            settings.max_new_tokens, do_sample=not greedy, temperature=1.0 if greedy else settings.temperature
        )
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        with known_as("model"):
            self.tokenizer = load_tokenizer(path)
            self.model = load_model(path, dtype=dtype, device=device)

    def complete(self, prompt: Prompt) -> str:
        """
        Prints the completion of a prompt (text or chat messages) while it is generated, and returns it.

        Raises:
            ValueError: If the prompt fills the model's context, or is a chat and the tokenizer has no chat template.
        """
        (ids,) = encode_prompts(self.tokenizer, [prompt], self.settings.chat_template_kwargs)
        room = (context_length(self.model) or NO_LIMIT) - len(ids)
        if room < 1:
            raise ValueError(
                f"A prompt must leave room in the model's context of {context_length(self.model)} tokens, got "
                f"{len(ids)} tokens. Shorten it."
            )
        decoding = replace(self.decoding, max_new_tokens=min(room, self.decoding.max_new_tokens))
        config = generation_config(self.model, self.tokenizer, decoding)
        inputs = torch.tensor([ids], device=self.model.device)
        streamer = TextStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        generate: Any = self.model.generate
        with eval_mode(self.model), generation_config_replaced(self.model, config):
            sequence = generate(
                input_ids=inputs, attention_mask=torch.ones_like(inputs), generation_config=config, streamer=streamer
            )[0]
        return str(self.tokenizer.decode(sequence[len(ids) :], skip_special_tokens=True))


def _as_row(text: str) -> dict[str, Any] | None:
    """Returns a text as a row if it is a JSON object, else `None`."""
    if text.lstrip().startswith("{"):
        with suppress(ValueError):
            return dict(json.loads(text))
    return None
