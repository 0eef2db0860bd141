"""Batched, seeded generation of completions."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from lmrl.distributed import gather, on_main, rank_and_world_size
from lmrl.libraries import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, torch, transformers
from lmrl.utils import check_at_least, check_token_ids, replaced

from .encoding import Prompt, check_context, encode_prompts
from .store import CompletionStore, Lines, store_key


@dataclass(frozen=True)
class Decoding:
    """
    How completions are generated.

    Of a model's saved generation config only the end-of-sequence tokens are used, which end a completion as the
    tokenizer's do, as in training. A saved `top_k` or `repetition_penalty` would evaluate another distribution than
    the one that was trained.

    Args:
        max_new_tokens (`int`):
            Maximum length of a completion in tokens; with the prompt it must fit into the model's positions.
        do_sample (`bool`, *optional*, defaults to `False`):
            Whether to sample; otherwise the most likely token (or beam) is taken.
        num_beams (`int`, *optional*, defaults to `1`):
            Number of beams; 1 is no beam search.
        temperature (`float`, *optional*, defaults to `1.0`):
            Divisor of the logits when sampling, above 0.
        top_p (`float`, *optional*, defaults to `1.0`):
            Probability mass that sampling keeps, in (0, 1].
        num_samples (`int`, *optional*, defaults to `1`):
            Completions per prompt; more than one needs `do_sample`.
        batch_size (`int`, *optional*, defaults to `32`):
            Prompts per batch; `batch_size * num_samples` completions are generated at a time.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the sampling. The same seed, prompts and batch size give the same completions.
        chat_template_kwargs (`dict`, *optional*):
            Variables of the chat template, such as `{"enable_thinking": False}`; use those of training.

    Raises:
        `ValueError`: if a value is out of its range.
    """

    max_new_tokens: int
    do_sample: bool = False
    num_beams: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    num_samples: int = 1
    batch_size: int = 32
    seed: int = 0
    chat_template_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_at_least(1, max_new_tokens=self.max_new_tokens, num_beams=self.num_beams)
        check_at_least(1, num_samples=self.num_samples, batch_size=self.batch_size)
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be above 0, got {self.temperature}. Greedy is `do_sample=False`.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"`top_p` must be in (0, 1], got {self.top_p}. 1 keeps all tokens.")
        if self.num_samples > 1 and not self.do_sample:
            raise ValueError(f"`num_samples` must be 1 without sampling, got {self.num_samples}. Set `do_sample`.")
        if 1 < self.num_beams < self.num_samples:
            raise ValueError(
                f"`num_samples` must be at most {self.num_beams}, the number of beams, got {self.num_samples}. Sample "
                "without beams."
            )


def decoding_text(decoding: Mapping[str, Any]) -> str:
    """Returns a description of the fields of a [`Decoding`], an empty string if there are none."""
    if not decoding:
        return ""
    how = "greedy decoding"
    if decoding.get("do_sample"):
        how = f"{decoding.get('num_samples', 1)} sampled at temperature {decoding.get('temperature', 1):g}"
    elif decoding.get("num_beams", 1) > 1:
        how = f"beam search with {decoding['num_beams']} beams"
    return f"{how}, at most {decoding.get('max_new_tokens')} tokens"


@dataclass(frozen=True)
class Completion:
    """
    One completion of one prompt.

    Args:
        row (`int`):
            Index of its prompt in the list of prompts.
        sample (`int`):
            Number of the completion among those of its prompt, from 0.
        text (`str`):
            The tokens before the first end-of-sequence token, decoded without special tokens; not stripped.
        length (`int`):
            Number of tokens generated, the end-of-sequence token included.
        finished (`bool`):
            Whether it ended with an end-of-sequence token; `False` if `max_new_tokens` cut it.
        token_ids (list of `int`, *optional*):
            The tokens generated, the end-of-sequence token included; `None` for a text read from a file.
    """

    row: int
    sample: int
    text: str
    length: int
    finished: bool
    token_ids: list[int] | None = field(default=None, repr=False, compare=False)


def generate_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    *,
    store: CompletionStore | None = None,
    progress: bool = True,
) -> list[Completion]:
    """
    Returns the model's completions in the order of the prompts; the `num_samples` of one prompt follow each other.

    The model is put in evaluation mode; its mode and the random state are restored afterwards.

    With several processes in `torch.distributed`, all must call this: they share the batches, and each returns all
    completions, equal to those of a single process.

    Args:
        model (`transformers.PreTrainedModel` or `peft.PeftModel`), tokenizer:
            A causal language model, on the device where it is to run, and its tokenizer, whatever its padding side.
        prompts (list of `str`, or list of lists of messages):
            Texts are tokenized unchanged; messages go through the chat template with the generation prompt added.
        decoding ([`Decoding`]):
            How completions are generated.
        store ([`CompletionStore`], *optional*):
            Store to which each batch is written when it is done, and from which it is read after an interruption.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar with the time left.

    Raises:
        `ValueError`: if the longest prompt and `max_new_tokens` do not fit into the model's positions.
    """
    from tqdm.auto import tqdm

    prompt_ids = encode_prompts(tokenizer, prompts, decoding.chat_template_kwargs)
    check_token_ids(prompt_ids, model.config.get_text_config().vocab_size)
    # The longest first: a batch that does not fit in memory fails at once, and the time left is not underestimated.
    order = sorted(range(len(prompts)), key=lambda row: -len(prompt_ids[row]))
    for row in order[:1]:
        check_context(model, row, len(prompt_ids[row]), decoding.max_new_tokens)
    config = generation_config(model, tokenizer, decoding)
    size = decoding.batch_size
    batches = {start: order[start : start + size] for start in range(0, len(order), size)}
    rank, world_size = rank_and_world_size()
    settings = {**asdict(decoding), "eos_ids": config.eos_token_id}
    key = "" if store is None else store_key(model, prompt_ids, settings)
    done = {} if store is None else on_main(lambda: store.read(key))  # all processes must miss the same batches
    missing = [start for start in batches if start not in done]
    bar = tqdm(
        total=len(prompts) * decoding.num_samples,
        initial=decoding.num_samples * sum(len(batches[start]) for start in done),  # not counted in the time left
        desc="generating",
        unit="text",
        disable=not progress or rank > 0,
    )
    devices = [model.device] if model.device.type == "cuda" else []
    with bar, eval_mode(model), generation_config_replaced(model, config), torch.random.fork_rng(devices=devices):
        for start in missing[rank::world_size]:
            # Each batch has its own seed, so that its completions do not depend on the batches before it.
            torch.manual_seed(random.Random(f"{decoding.seed}/{start}").getrandbits(32))
            done[start] = _generate_batch(model, tokenizer, {row: prompt_ids[row] for row in batches[start]}, config)
            if store is not None:
                store.append(key, rank, start, done[start])
            bar.update(min(len(done[start]) * world_size, bar.total - bar.n))
    by_start = {start: lines for part in gather(done) for start, lines in part.items()}
    completions = [Completion(**line) for start in batches for line in by_start[start]]
    return sorted(completions, key=lambda completion: (completion.row, completion.sample))


@contextmanager
def eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """Puts the model in evaluation mode without gradients, and restores the mode of each of its modules."""
    # Not `torch.inference_mode`: a tensor that the model caches in it could not be used for training afterwards.
    modes = [(module, module.training) for module in model.modules()]
    model.train(False)
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def generation_config_replaced(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Replaces the saved generation config, from which `generate` takes every field that `config` leaves open."""
    get_base_model: Any = getattr(model, "get_base_model", None)  # of a PEFT model
    base = model if get_base_model is None else get_base_model()
    with ExitStack() as stack:
        for owner in (model, base):
            if "generation_config" in vars(owner):
                stack.enter_context(replaced(owner, "generation_config", config))
        yield


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """
    Returns the tokens that end a completion, sorted: those of the model's generation config and the tokenizer's.

    Trainers write the tokenizer's into the model when training begins: with either alone the set would change then.
    """
    declared: Any = model.generation_config.eos_token_id
    ids = {tokenizer.eos_token_id, *([declared] if isinstance(declared, int) else declared or [])}
    return sorted(ids - {None})


def generation_config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, decoding: Decoding
) -> GenerationConfig:
    """Returns the config for `generate` that a decoding stands for, with the end tokens of model and tokenizer."""
    eos_ids = end_token_ids(model, tokenizer)
    # Any id serves as padding: no code compares tokens with it.
    vocabulary = model.config.get_text_config().vocab_size
    pad = next(id for id in [tokenizer.pad_token_id, *eos_ids, 0] if id is not None and id < vocabulary)
    sampling = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0} if decoding.do_sample else {}
    return transformers.GenerationConfig(
        eos_token_id=eos_ids or None,
        pad_token_id=pad,
        max_new_tokens=decoding.max_new_tokens,
        do_sample=decoding.do_sample,
        num_beams=decoding.num_beams,
        num_return_sequences=decoding.num_samples,
        **sampling,
    )


def _generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: dict[int, list[int]],
    config: GenerationConfig,
) -> Lines:
    """Returns the completions of prompts, which are given as token ids by their rows."""
    from lmrl.models import draw

    width = max(len(ids) for ids in prompt_ids.values())
    input_ids = [[config.pad_token_id] * (width - len(ids)) + ids for ids in prompt_ids.values()]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompt_ids.values()]
    generate: Any = model.generate
    sequences = generate(
        input_ids=torch.tensor(input_ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        generation_config=config,
        custom_generate=draw if config.num_beams == 1 else None,
    )
    lines = []
    samples = itertools.product(prompt_ids, range(len(sequences) // len(prompt_ids)))
    for (row, sample), ids in zip(samples, sequences[:, width:].tolist(), strict=True):
        end = next((position for position, token in enumerate(ids) if token in (config.eos_token_id or ())), None)
        text = str(tokenizer.decode(ids[:end], skip_special_tokens=True))
        generated = ids if end is None else ids[: end + 1]
        lines.append(asdict(Completion(row, sample, text, len(generated), end is not None, generated)))
    return lines
