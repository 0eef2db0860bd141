"""
The commands that use a trained model: merge, generate, chat. Torch is imported once their flags are read.
"""

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import quieten_libraries, run
from .flags import FlagParser

if TYPE_CHECKING:
    from lmrl.experiment.terminal import PromptSettings, TerminalModel

DTYPES = ("auto", "bfloat16", "float16", "float32")

MERGE_HELP = """
usage: lmrl merge RUN FOLDER [--dtype auto|bfloat16|float16|float32] [--overwrite]

Writes the model of a run, an adapter merged into its base, and its tokenizer into a folder that plain transformers
loads. `auto` is the precision of the base.
"""

GENERATE_HELP = """
usage: lmrl generate RUN [PROMPT ...] [--prompts FILE] [flags]

Prints completions while they are generated. RUN is the folder of a run, a checkpoint or a model, plain or an adapter,
or a hub id. Prompts stand in the command, or are the lines of a file or of the standard input; each may be a row of
data as a JSON object. The prompt template, the chat settings, the length and the temperature are those of the run.

  --prompts FILE            prompts, one a line; - is the standard input
  --max_new_tokens N        maximum number of tokens of a completion
  --temperature X           temperature of sampling
  --greedy                  the most likely token, instead of sampling
  --seed N                  seed of the sampling
  --prompt_template TEXT    in place of the run's; '' is none
  --system_prompt TEXT      in place of the run's
  --chat                    a prompt is a message of the user
  --dtype NAME              auto (that of the files), bfloat16, float16 or float32
"""

CHAT_HELP = """
usage: lmrl chat RUN [--max_new_tokens N] [--temperature X] [--greedy] [--seed N] [--prompt_template TEXT]
                 [--system_prompt TEXT] [--dtype NAME]

A chat with the model of a run, of a checkpoint or of a folder; flags as of `lmrl generate --help`. An empty line or
Ctrl-D ends it, /new begins another.
"""


def merge(words: Sequence[str]) -> None:
    """Writes the model of a run and its tokenizer into a folder that plain transformers loads."""
    if _wants_help(words, MERGE_HELP):
        return
    values = merge_flags().read(words)
    if len(values.folders) != 2:
        raise ValueError(f"`lmrl merge` must have a run and a new folder, got {' '.join(values.folders) or 'none'}.")
    target = Path(values.folders[1])
    if target.resolve() == Path(values.folders[0]).resolve():
        raise ValueError(f"The folder to write must be another than that of the run, got {str(target)!r} for both.")
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not values.overwrite):
        raise ValueError(f"The folder to write must be new or empty, got {str(target)!r}. Add --overwrite.")
    run(lambda: _merge(values.folders[0], target, values.dtype))


def generate(words: Sequence[str]) -> None:
    """Prints the completions of prompts, as they are generated."""
    if _wants_help(words, GENERATE_HELP):
        return
    values = generate_flags().read(words)
    if not values.words:
        raise ValueError("`lmrl generate` must have a run, got none. Name its folder.")
    path, *prompts = values.words
    if prompts and values.prompts is not None:
        raise ValueError("`prompts` must not be given with prompts in the command, got both. Leave out either.")
    texts = prompts or _lines(values.prompts or "-")
    if not texts:
        raise ValueError("`lmrl generate` must have a prompt, got none. Write it behind the run, or give --prompts.")
    run(lambda: _generate(path, texts, values))


def chat(words: Sequence[str]) -> None:
    """Completes each message that is typed, with all those before it."""
    if _wants_help(words, CHAT_HELP):
        return
    values = chat_flags().read(words)
    if len(values.words) != 1:
        raise ValueError(f"`lmrl chat` must have a run, got {' '.join(values.words) or 'none'}. Name its folder.")
    values.chat = True
    run(lambda: _chat(values.words[0], values))


def merge_flags() -> FlagParser:
    """Returns the parser of `lmrl merge`."""
    parser = FlagParser()
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--dtype", choices=DTYPES, default="auto")
    parser.add_argument("--overwrite", action="store_true")
    return parser


def chat_flags() -> FlagParser:
    """Returns the parser of `lmrl chat`."""
    parser = FlagParser()
    parser.add_argument("words", nargs="*")
    parser.add_argument("--max_new_tokens", type=int)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--greedy", action="store_true")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--prompt_template")
    parser.add_argument("--system_prompt")
    parser.add_argument("--dtype", choices=DTYPES, default="auto")
    return parser


def generate_flags() -> FlagParser:
    """Returns the parser of `lmrl generate`."""
    parser = chat_flags()
    parser.add_argument("--prompts")
    parser.add_argument("--chat", action="store_true", default=None)
    return parser


def _wants_help(words: Sequence[str], text: str) -> bool:
    """Returns whether help is wanted, which is then printed."""
    wants_help = "--help" in words or "-h" in words
    if wants_help:
        print(text.strip())
    return wants_help


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


def _generate(path: str, texts: Sequence[str], values: Namespace) -> None:
    model, settings = _load(path, values)
    for prompt in [settings.make_prompt(text) for text in texts]:
        if len(texts) > 1:
            print(f"> {prompt if isinstance(prompt, str) else prompt[-1]['content']}", file=sys.stderr, flush=True)
        model.complete(prompt)


def _chat(path: str, values: Namespace) -> None:
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
        prompt = settings.make_prompt(text)
        # The system's message stands at the beginning only.
        messages += [
            message for message in prompt if isinstance(message, dict) and not (messages and _is_system(message))
        ]
        messages.append({"role": "assistant", "content": model.complete(messages)})


def _is_system(message: dict[str, Any]) -> bool:
    return bool(message["role"] == "system")


def _next_message() -> str:
    """Returns the next line of the standard input, and an empty text at its end."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


def _merge(source: str, target: Path, dtype: str) -> None:
    from lmrl.experiment.runs import copy_record
    from lmrl.models import load_model, load_tokenizer, write_merged
    from lmrl.utils import known_as

    quieten_libraries()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed, where it is installed, warns that it takes the CPU
    with known_as("model"):
        if Path(source, "adapter_config.json").is_file():
            write_merged(source, target, dtype=dtype)
        else:
            print(f"{source} has no adapter to merge: its weights are copied.", file=sys.stderr)
            tokenizer = load_tokenizer(source)
            load_model(source, dtype=dtype).save_pretrained(target)
            tokenizer.save_pretrained(target)
    copy_record(source, target)
    print(f"The model is in {target}")
