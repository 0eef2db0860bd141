"""The banner of a run: a dozen lines on what it is about to do, printed before its first slow step."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from datasets import Dataset

from lmrl.critics import get_critic
from lmrl.display.wording import setting_text
from lmrl.evaluation.evaluate import rewards_by_name
from lmrl.evaluation.generation import decoding_text
from lmrl.experiment.notes import weights_dtype
from lmrl.experiment.policies import layers_text, layers_without_adapter
from lmrl.models import base_of
from lmrl.outputs import CHECKPOINTS, matching, resume_request
from lmrl.settings import LORA_RATE_RATIO
from lmrl.utils import aligned_lines, tokenize_prompt

_TEXT = 160  # characters of a prompt or a reference that are shown
_CRITICS = {
    "shared": "a head on the policy's hidden states",
    "adapter": "a head and an adapter of its own on the policy's base",
    "separate": "a model of its own",
    "least_squares": "a regression on the policy's states, fitted for each rollout on those before it",
}


def show(facts: Mapping[str, str], notes: Sequence[str] = ()) -> None:
    """Prints facts, a line for each name, and notes below them."""
    numbered = {"note" if len(notes) == 1 else f"note {place}": note for place, note in enumerate(notes, start=1)}
    with suppress(OSError):  # a pipe without a reader must not end the run
        print(aligned_lines({**facts, **numbered}), flush=True)


def run_facts(trainer: Any, train_rows: Dataset, eval_rows: Dataset, given: Mapping[str, Any]) -> dict[str, str]:
    """Returns the lines of a run's banner by name; `given` has the arguments of the recipe by name."""
    facts = {"model": _model(trainer, given), "device": _device(trainer)}
    if hasattr(trainer, "reference"):
        facts |= {"reference": _reference(trainer), "critic": _critic(trainer), "rewards": _rewards(trainer)}
        facts |= {"each step": _rollout(trainer), "completions": _completions(trainer)}
    else:
        facts["each step"] = f"{trainer.get_total_train_batch_size(trainer.args)} rows"
    facts |= {"training": _training(trainer), "held out": _held_out(trainer, eval_rows, given)}
    return facts | _first_row(trainer, train_rows) | {"output": _output(trainer.args)}


def print_evaluation_banner(evaluator: Any, rows: Dataset, folder: Any) -> None:
    """
    Prints what a [`~lmrl.experiment.SystemEvaluator`] is about to do with the rows, and the folder of its results.
    Only the main process should call it.
    """
    systems = {**evaluator.checkpoints, **evaluator.outputs}
    decoding = evaluator.decoding
    facts = {"systems": ", ".join(f"{label} ({path})" for label, path in systems.items())}
    prompt = {}
    if evaluator.tokenizers:  # else no completion is generated
        facts["device"] = f"{evaluator.loading['device'].type}; weights in {evaluator.loading['dtype']}"
        facts["completions"] = decoding_text(vars(decoding))
        tokenizer = next(iter(evaluator.tokenizers.values()))
        prompt["first prompt"] = rendered_prompt(tokenizer, rows[0]["prompt"], decoding.chat_template_kwargs)
    facts["metrics"] = ", ".join(["the usual ones", *rewards_by_name(evaluator.reward_funcs)])
    facts["held out"] = f"{len(rows):,} rows"
    show(facts | prompt | _reference_of(rows[0]) | {"output": str(folder)})


# -- the model -------------------------------------------------------------------------------------------------------


def _model(trainer: Any, given: Mapping[str, Any]) -> str:
    """Returns the name, class, size and adapter of the model."""
    base = base_of(trainer.model)
    name = given.get("model_name_or_path") or "lmrl's demo"
    trained, total = count_weights(trainer.model)
    share = "all trained" if trained == total else f"{number_text(trained)} trained ({100 * trained / total:.2g} %)"
    return f"{name} ({type(base).__name__}): {number_text(total)} parameters, {share}{_adapter(trainer.model)}"


def _adapter(model: Any) -> str:
    config = getattr(model, "active_peft_config", None)
    if config is None:
        return ""
    if config.peft_type != "LORA":
        return f" ({config.peft_type.value})"
    layers = layers_text(config.target_modules) if layers_without_adapter(model) else "all linear layers"
    parts = [layers, *(config.target_parameters or ())]
    return f" (LoRA of rank {config.r} on {', '.join(part for part in parts if part)})"


def count_weights(model: Any) -> tuple[int, int]:
    """Returns the numbers of trained weights and of all weights of a model, without those of a critic."""
    trained = 0
    total = 0
    for name, weight in model.named_parameters():
        if ".critic." in f".{name}":
            continue
        count = getattr(weight, "ds_numel", 0) or weight.numel()  # under ZeRO-3 weights are empty
        if type(weight).__name__ == "Params4bit":
            count *= 2 * weight.element_size()  # two weights in each byte
        total += count
        trained += count if weight.requires_grad else 0
    return trained, total


def number_text(number: int) -> str:
    """Returns a number with a unit: `950`, `12.3k`, `0.49M`, `134.5M`, `1.24B`."""
    for limit, unit, digits in ((1e9, "B", 2), (1e7, "M", 1), (1e5, "M", 2), (1e3, "k", 1)):
        if number >= limit:
            return f"{number / {'B': 1e9, 'M': 1e6, 'k': 1e3}[unit]:.{digits}f}{unit}"
    return str(number)


def _device(trainer: Any) -> str:
    """Returns the device, the number of processes, and the precision of weights and of computation."""
    args = trainer.args
    device = args.device.type
    if device == "cuda":
        device = torch.cuda.get_device_name(args.device)
    kind = trainer.accelerator.distributed_type.value
    engine = {"NO": "", "MULTI_CPU": ", DDP", "MULTI_GPU": ", DDP"}.get(kind, f", {kind}")
    computed = "bfloat16" if args.bf16 else "float16" if args.fp16 else weights_dtype(trainer.model)
    weights = "4 bits" if getattr(trainer.model, "is_loaded_in_4bit", False) else weights_dtype(trainer.model)
    count = f"{args.world_size} processes on " if args.world_size > 1 else ""
    return f"{count}{device}{engine}; weights in {weights}, computed in {computed}"


def _reference(trainer: Any) -> str:
    """Returns the reference model of the KL penalty, and its coefficient."""
    args = trainer.args
    if args.beta == 0:
        return "none, as beta is 0"
    if args.reference_model_name_or_path is not None:
        kind = args.reference_model_name_or_path
    elif trainer.reference.model is not None:
        kind = "a frozen copy of the policy"
    elif "ref" in getattr(trainer.model, "peft_config", {}):
        kind = "the policy with its adapter as it is now"
    else:
        kind = "the policy with its adapter off"
    moves = f", moved towards the policy every {_steps(args.ref_model_sync_steps)}" if args.sync_ref_model else ""
    beta = f"{args.beta:g}" if args.kl_target is None else f"{args.beta:g}, adapted to a KL of {args.kl_target:g} nats"
    return f"{kind}{moves}; KL penalty beta {beta}"


def _critic(trainer: Any) -> str:
    """Returns the critic, or the baseline that takes its place."""
    if not trainer.has_critic:
        baseline = getattr(trainer.args, "baseline", None)
        return "none" if baseline is None else f"none; the baseline is {setting_text(baseline)}"
    kind = str(getattr(trainer.args, "critic", ""))
    critic = get_critic(trainer.model)
    trained = sum(weight.numel() for weight in critic.parameters() if weight.requires_grad)
    if not trained:
        return _CRITICS.get(kind, _CRITICS["least_squares"])
    rate = getattr(trainer.args, "critic_learning_rate", None)
    learned = f", learning rate {rate:g}" if rate else ""
    return f"{_CRITICS.get(kind, kind)}: {number_text(trained)} parameters{learned}"


def _rewards(trainer: Any) -> str:
    weights = trainer.args.reward_weights or [1.0] * len(trainer.reward_func_names)
    terms = zip(weights, trainer.reward_func_names, strict=True)
    return " + ".join(name if weight == 1 else f"{weight:g} {name}" for weight, name in terms)


# -- steps -----------------------------------------------------------------------------------------------------------


def _steps(number: float) -> str:
    """Returns a number of steps in the form that follows the word `every`."""
    return "step" if number == 1 else f"{number:g} steps"


def _steps_per_rollout(args: Any) -> float:
    return float(args.steps_per_generation * args.num_iterations / args.gradient_accumulation_steps)


def _rollout(trainer: Any) -> str:
    """Returns the number of completions of an optimizer step, and of a rollout if that differs."""
    args = trainer.args
    in_rollout = args.generation_batch_size
    prompts = in_rollout // args.num_generations
    rollout = f"{in_rollout} = {prompts} prompts x {args.num_generations} completions"
    steps = _steps_per_rollout(args)
    served = f", trained on in {steps:g} steps" if steps > 1 else ""
    in_step = trainer.get_total_train_batch_size(args)
    return f"{rollout}{served}" if in_step == in_rollout else f"{in_step} of a rollout of {rollout}{served}"


def _completions(trainer: Any) -> str:
    """Returns the length of completions, their end and how they are sampled."""
    args = trainer.args
    names = trainer.processing_class.convert_ids_to_tokens(list(trainer.eos_token_ids))
    ends = " or ".join(str(name) for name in names) or "nothing"
    also = " (also the padding)" if trainer.processing_class.pad_token in names else ""
    return f"at most {args.max_completion_length} tokens, ended by {ends}{also}; temperature {args.temperature:g}"


def _training(trainer: Any) -> str:
    """Returns the number of steps, of prompts or rows in them, and of epochs, and the learning rate."""
    args = trainer.args
    rows = len(trainer.train_dataset) if hasattr(trainer.train_dataset, "__len__") else None
    per_step, steps_per_epoch = _pace(trainer, rows)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * (steps_per_epoch or 0))
    unit = "prompts" if hasattr(trainer, "reference") else "rows"
    seen = steps * per_step
    passes = f" = {seen / rows:.2g} epochs of {rows:,}" if rows else " of a stream"
    request = resume_request(args.resume_from_checkpoint)
    goes_on = request is not None and (request != "latest" or bool(matching(args.output_dir, CHECKPOINTS)))
    resumed = f"; goes on from a checkpoint ({request})" if goes_on else ""
    named = f"{steps:,} step{'s'[: steps != 1]}"
    rate = f"learning rate {_rate(trainer)}, {args.lr_scheduler_type.value}"
    return f"{named}, {seen:,.0f} {unit}{passes}; {rate}{resumed}"


def _rate(trainer: Any) -> str:
    """Returns the learning rate; for LoRA with its ratio to the default for training all weights."""
    args = trainer.args
    full = getattr(args, "full_learning_rate", type(args).__dataclass_fields__["learning_rate"].default)
    is_raised = hasattr(trainer.model, "peft_config") and args.learning_rate == LORA_RATE_RATIO * full
    note = f" ({LORA_RATE_RATIO} times the default for all weights)" if is_raised else ""
    return f"{args.learning_rate:g}{note}"


def _pace(trainer: Any, rows: int | None) -> tuple[float, int | None]:
    """Returns the prompts or rows of a step, and the steps of a pass over all rows."""
    args = trainer.args
    if hasattr(trainer, "reference"):
        prompts = args.generation_batch_size // args.num_generations
        steps = _steps_per_rollout(args)
        batches = None if rows is None else rows // prompts * args.steps_per_generation * args.num_iterations
        per_step = prompts / steps
    else:
        batches = None if rows is None else math.ceil(rows / (args.train_batch_size * args.world_size))
        per_step = trainer.get_total_train_batch_size(args)
    return per_step, None if batches is None else max(math.ceil(batches / args.gradient_accumulation_steps), 1)


def _held_out(trainer: Any, eval_rows: Dataset, given: Mapping[str, Any]) -> str:
    """Returns how many rows are held out and when they are evaluated."""
    args = trainer.args
    subset = min(given.get("eval_subset") or len(eval_rows), len(eval_rows))
    during = ""
    if args.eval_strategy != "no":
        every = "epoch" if args.eval_strategy == "epoch" else _steps(args.eval_steps)
        during = f", {subset} of them every {every}"
    if hasattr(trainer, "reference"):
        when = "before and after training"
    elif "eval_subset" in given:  # a warm start, which evaluates only these rows
        when = ("" if subset == len(eval_rows) else f"the first {subset} ") + "before and after training"
    else:
        when = "after training"
    return f"{len(eval_rows):,} rows, {when}{during}"


# -- rows and results ------------------------------------------------------------------------------------------------


def _first_row(trainer: Any, rows: Dataset) -> dict[str, str]:
    """Returns the first training row, with its prompt as the model gets it."""
    row: dict[str, Any] = next(iter(rows), {})
    shown = {}
    if "prompt" in row:
        options = getattr(trainer.args, "chat_template_kwargs", None)
        shown["first prompt"] = rendered_prompt(trainer.processing_class, row["prompt"], options)
    for column, name in (("chosen", "chosen"), ("rejected", "rejected"), ("text", "first text"), ("label", "label")):
        if column in row:
            shown[name] = visible(str(row[column]))
    if set(shown) == {"first text", "label"}:  # rows of a classifier, whose labels are numbers
        shown["label"] = trainer.model.config.id2label.get(row["label"], shown["label"])
    return shown | _reference_of(row)


def _reference_of(row: Mapping[str, Any]) -> dict[str, str]:
    references = row.get("references") or []
    further = f" (1 of {len(references)})" if len(references) > 1 else ""
    return {"its reference": visible(str(references[0])) + further} if references else {}


def rendered_prompt(tokenizer: Any, prompt: Any, chat_template_kwargs: Mapping[str, Any] | None = None) -> str:
    """Returns a prompt as the model gets it: its tokens, special ones too, decoded and shortened in the middle."""
    ids = tokenize_prompt(tokenizer, prompt, 0, **(chat_template_kwargs or {}))
    return visible(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def visible(text: str) -> str:
    """Returns a text in one line, with its line breaks as `\\n`, shortened in the middle."""
    text = text.replace("\n", "\\n").replace("\t", "\\t")
    if len(text) <= _TEXT:
        return text
    kept = _TEXT - len(" ... ")
    return f"{text[: kept - kept // 2]} ... {text[len(text) - kept // 2 :]}"


def _output(args: Any) -> str:
    """Returns where results go, how often checkpoints are saved, and the trackers."""
    saved = {
        "no": "no checkpoints (--save_strategy steps --save_steps 10 keeps some)",
        "steps": f"a checkpoint every {_steps(args.save_steps)}",
        "epoch": "a checkpoint every epoch",
        "best": "a checkpoint at each best evaluation",
    }[args.save_strategy.value]
    trackers = f"; logged to {', '.join(args.report_to)}" if args.report_to else ""
    return f"{args.output_dir}; {saved}{trackers}"
