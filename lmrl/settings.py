"""Groups of arguments that know which of their fields a user gave. Standard library only."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

COMMAND_LINE = "command line"
FILE = "file"

# Held-out scores and logged metrics of which less is better; transformers would keep the checkpoint with most of it.
LOWER_IS_BETTER = (
    *("ter", "perplexity", "own_perplexity", "self_bleu", "repetition", "unfinished"),
    *("kl", "kl_per_sequence", "completions/clipped_ratio", "loss"),
)

# Ratio of LoRA's peak learning rate to that of all weights, at any rank, where alpha is divided by the rank: "LoRA
# Without Regret" (Schulman and Thinking Machines Lab, 2025, https://doi.org/10.64434/tml.20250929).
LORA_RATE_RATIO = 10

# Names of settings that are secrets, and where a text has one: behind a flag, in an address and in its query.
# Tokens of a vocabulary, such as `pad_token`, are none.
_NO_SECRET = "".join(f"(?<!{name}_)" for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask"))
_SECRET = rf"(?:^|(?<=[\W_]){_NO_SECRET})(?:token|api[_-]key|password|secret)"
_SECRET_NAME = re.compile(f"{_SECRET}$", re.IGNORECASE)
_SECRET_IN_TEXT = re.compile(
    rf"((?:--|[?&])[\w-]*?{_SECRET}[= ])[^\s&]+|(?<=://)[^\s/@]*:[^\s/@]*(?=@)", re.IGNORECASE
)

_GIVEN: ContextVar[Mapping[str, str] | None] = ContextVar("given", default=None)


class Settings:
    """
    Base of the dataclasses of arguments.

    `given` has the names of the fields that the user set, even if to their default, each with the place: the command
    line, or the file of `--config`. It is `None` for an object that was made in Python.
    """

    # A slot, so that `vars`, which is passed on as keyword arguments, has the fields alone.
    __slots__ = ("given",)
    given: Mapping[str, str] | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Returns an object that knows what was given before its own checks run."""
        made = super().__new__(cls)
        made.given = _GIVEN.get()
        return made


@contextmanager
def giving(places: Mapping[str, str]) -> Iterator[None]:
    """Makes these names, each with its place, the `given` ones of groups of arguments that are made in the context."""
    token = _GIVEN.set(places)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def is_given(arguments: Any, name: str) -> bool:
    """Returns whether a user set a field, even to its default; for one made in Python, if it is not its default."""
    given = getattr(arguments, "given", None)
    if given is not None:
        return name in given
    return bool(getattr(arguments, name) != type(arguments).__dataclass_fields__[name].default)


def check_unread(arguments: Any, names: Iterable[str], other: str, relation: str = "without") -> None:
    """
    Raises an error for the first of the fields that a user set, if because of `other` nothing reads it.

    `None` and a switch that is off request nothing, and pass.
    """
    for name in names:
        value = getattr(arguments, name)
        if is_given(arguments, name) and value is not None and value is not False:
            raise ValueError(f"`{name}` must not be set {relation} `{other}`, got {value!r}: it would not be read.")


def check_length(config: Any) -> None:
    """Raises an error for a training of no steps, whose scores would be those of the model as it is."""
    remedy = "recipes/evaluate_gen.py scores a model without training it."
    if config.max_steps < 1 and config.max_steps != -1:
        raise ValueError(f"`max_steps` must be at least 1, or -1 for epochs, got {config.max_steps}. {remedy}")
    if config.max_steps == -1 and not config.num_train_epochs > 0:
        raise ValueError(f"`num_train_epochs` must be above 0, got {config.num_train_epochs}. {remedy}")


def lora_learning_rate(config: Any, full: float) -> float:
    """
    Returns the default learning rate of LoRA, given `full`, that for all weights. A `ValueError` if DeepSpeed's
    configuration has already copied `full` into its optimizer or schedule.
    """
    engine = getattr(config, "hf_deepspeed_config", None)
    for name in ("optimizer.params.lr", "scheduler.params.warmup_max_lr"):
        if engine is not None and engine.get_value(name) == full:
            raise ValueError(
                f"`learning_rate` must be given for LoRA where DeepSpeed's configuration has {name}, got none. Its "
                f"default for LoRA is {full * LORA_RATE_RATIO:g}, and DeepSpeed has that for all weights, {full:g}."
            )
    return full * LORA_RATE_RATIO


def follow_lora(config: Any) -> None:
    """Sets the default learning rate of LoRA in a configuration that was parsed, unless a user gave one."""
    given = getattr(config, "given", None)
    if given is not None and "learning_rate" not in given and config.learning_rate is not None:
        config.learning_rate = lora_learning_rate(config, config.learning_rate)


def known_direction(metric: str | None, greater_is_better: bool | None) -> bool | None:
    """
    Returns whether more of a metric is better: False for one of which less is, else what is given.

    More of a reward is better, also of `reward/ter`, and of `reward/own_loss`, which transformers takes for a loss.

    Raises:
        ValueError: If `greater_is_better` is True for a metric of which less is better.
    """
    name = (metric or "").removeprefix("eval_")
    if "reward/" in name:
        return True if greater_is_better is None else greater_is_better
    if not any(name == lower or name.endswith(f"_{lower}") for lower in LOWER_IS_BETTER):
        return greater_is_better
    if greater_is_better:
        raise ValueError(f"`greater_is_better` must be False for {name!r}, got True. Leave it out.")
    return False


def without_secrets(value: Any, name: str = "") -> Any:
    """
    Returns a setting, or settings by name, also nested, with `hidden` in place of access tokens, keys and passwords:
    texts under such a name, and in other texts what follows a flag of such a name or stands in an address.
    """
    if isinstance(value, Mapping):
        names = {key: name if _SECRET_NAME.search(name) else str(key) for key in value}
        return {key: without_secrets(part, names[key]) for key, part in value.items()}
    if isinstance(value, list):
        return [without_secrets(part, name) for part in value]
    if not isinstance(value, str) or not value:
        return value
    return "hidden" if _SECRET_NAME.search(name) else _SECRET_IN_TEXT.sub(r"\1hidden", value)
