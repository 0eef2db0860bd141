"""The commands that use a trained model: merge, generate, chat. Torch is imported after the flags are read."""

import os
import sys
from argparse import SUPPRESS, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import quieten_libraries
from .flags import FlagParser

if TYPE_CHECKING:
    from lmrl.experiment.terminal import PromptSettings, TerminalModel

DTYPES = ("auto", "bfloat16", "float16", "float32")


def merge(words: Sequence[str]) -> None:
    """Writes the model of a run and its tokenizer into a folder that plain transformers loads."""
    values = merge_flags().read(words)
    if len(values.folders) != 2:
        raise ValueError(f"`lmrl merge` must have a run and a new folder, got {' '.join(values.folders) or 'none'}.")
    source = values.folders[0]
    target = Path(values.folders[1])
    if target.resolve() == Path(source).resolve():
        raise ValueError(f"The folder to write must be another than that of the run, got {str(target)!r} for both.")
    if target.is_file():
        raise ValueError(f"The folder to write must be no file, got {str(target)!r}. Name another.")
    if target.is_dir() and any(target.iterdir()) and not values.overwrite:
        raise ValueError(f"The folder to write must be new or empty, got {str(target)!r}. Add --overwrite.")
    from lmrl.experiment.runs import copy_record
    from lmrl.models import load_model, load_tokenizer, write_merged
    from lmrl.utils import known_as

    quieten_libraries()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, if installed, warns that it uses the CPU
    with known_as("model"):
        if Path(source, "adapter_config.json").is_file():
            write_merged(source, target, dtype=values.dtype)
        else:
            print(f"{source} has no adapter to merge: its weights are copied.", file=sys.stderr)
            tokenizer = load_tokenizer(source)
            load_model(source, dtype=values.dtype).save_pretrained(target)
            tokenizer.save_pretrained(target)
    copy_record(source, target)
    print(f"The model is in {target}")


def generate(words: Sequence[str]) -> None:
    """Prints the completions of prompts while they are generated."""
    values = generate_flags().read(words)
    if not values.words:
        raise ValueError("`lmrl generate` must have a run, got none. Name its folder.")
    path, *prompts = values.words
    if prompts and values.prompts is not None:
        raise ValueError("`prompts` must not be given with prompts in the command, got both. Leave out either.")
    texts = prompts or _lines(values.prompts or "-")
    if not texts:
        raise ValueError("`lmrl generate` must have a prompt, got none. Write it behind the run, or give --prompts.")
    model, settings = _load(path, values)
    for prompt in [settings.make_prompt(text) for text in texts]:
        if len(texts) > 1:
            print(f"> {prompt if isinstance(prompt, str) else prompt[-1]['content']}", file=sys.stderr, flush=True)
        model.complete(prompt)


def chat(words: Sequence[str]) -> None:
    """Completes each message that is typed, given all messages before it."""
    values = chat_flags().read(words)
    if len(values.words) != 1:
        raise ValueError(f"`lmrl chat` must have a run, got {' '.join(values.words) or 'none'}. Name its folder.")
    (path,) = values.words
    values.chat = True
    model, settings = _load(path, values)
    if model.tokenizer.chat_template is None:
        raise ValueError(
            f"`lmrl chat` needs a chat template, and {path!r} has none. Use: lmrl generate {path} PROMPT."
        )
    messages: list[dict[str, Any]] = []
    while text := _next_message():
        if text == "/new":
            messages = []
            continue
        prompt: Any = settings.make_prompt(text)
        # The system message is only at the beginning.
        messages += [message for message in prompt if not messages or message["role"] != "system"]
        messages.append({"role": "assistant", "content": model.complete(messages)})


def merge_flags() -> FlagParser:
    """Returns the parser of `lmrl merge`."""
    parser = FlagParser(
        "lmrl merge RUN FOLDER [flags]",
        "Writes the model of a run, an adapter merged into its base, and its tokenizer into a folder that plain "
        "transformers loads.",
    )
    parser.add_argument("folders", nargs="*", help=SUPPRESS)
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="precision of the weights; auto: of the base")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty, too")
    return parser


def generate_flags() -> FlagParser:
    """Returns the parser of `lmrl generate`."""
    parser = _completion_flags(
        "lmrl generate RUN [PROMPT ...] [flags]",
        "Prints completions while they are generated. RUN is the folder of a run, a checkpoint or a model, plain or "
        "an adapter, or a hub id. Prompts stand in the command, or are the lines of a file or of the standard input; "
        "each may be a row of data as a JSON object. The prompt template, the chat settings, the length and the "
        "temperature are those of the run.",
    )
    parser.add_argument("--prompts", metavar="FILE", help="prompts, one a line; - is the standard input")
    parser.add_argument("--chat", action="store_true", default=None, help="a prompt is a message of the user")
    return parser


def chat_flags() -> FlagParser:
    """Returns the parser of `lmrl chat`."""
    return _completion_flags(
        "lmrl chat RUN [flags]",
        "A chat with the model of a run, of a checkpoint or of a folder, with the settings of the run. An empty line "
        "or Ctrl-D ends it, /new begins another.",
    )


def _completion_flags(usage: str, description: str) -> FlagParser:
    """Returns a parser of the flags that determine how completions are generated."""
    parser = FlagParser(usage, description)
    parser.add_argument("words", nargs="*", help=SUPPRESS)
    parser.add_argument("--max_new_tokens", type=int, metavar="N", help="maximum number of tokens of a completion")
    parser.add_argument("--temperature", type=float, metavar="X", help="temperature of sampling")
    parser.add_argument("--greedy", action="store_true", help="the most likely token, instead of sampling")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the sampling")
    parser.add_argument("--prompt_template", metavar="TEXT", help="in place of the run's; '' is none")
    parser.add_argument("--system_prompt", metavar="TEXT", help="in place of the run's; '' is none")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="precision of the weights; auto: of the files")
    return parser


def _lines(path: str) -> list[str]:
    """Returns the lines of a file, or of the standard input, that are not blank."""
    if path == "-" and sys.stdin.isatty():
        return []
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", error)
        raise ValueError(f"`prompts` must be a file that can be read, got {path!r}: {reason}.") from error
    return [line for line in text.split("\n") if line.strip()]


def _load(path: str, values: Namespace) -> "tuple[TerminalModel, PromptSettings]":
    """Returns the model and its prompt settings; raises a `ValueError` for flags that contradict each other."""
    if values.temperature is not None and not values.temperature > 0:
        raise ValueError(f"`temperature` must be above 0, got {values.temperature}. The most likely token: --greedy.")
    from transformers import set_seed

    from lmrl.experiment.terminal import PromptSettings, TerminalModel

    if values.greedy and (values.temperature is not None or values.seed is not None):
        raise ValueError("`greedy` must not be set with `temperature` or `seed`, got both. Leave out either.")
    quieten_libraries()
    set_seed(0 if values.seed is None else values.seed)
    names = ("max_new_tokens", "temperature", "prompt_template", "system_prompt", "chat")
    settings = PromptSettings.of_run(path, **{name: getattr(values, name) for name in names})
    return TerminalModel(path, settings, values.greedy, values.dtype), settings


def _next_message() -> str:
    """Returns the next line of the standard input, an empty text at its end."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
