"""The card of a trainer in a notebook, and its line of text."""

from dataclasses import MISSING, fields
from typing import Any

from lmrl.settings import without_secrets

from .cards import card, reward_lines, values_text
from .curves import PROGRESS
from .wording import counted

# Settings that are not shown: places, and fields that a configuration fills in by itself.
LEFT_OUT = {
    *("output_dir", "logging_dir", "run_name", "disable_tqdm", "report_to", "use_cpu"),
    *("accelerator_config", "dataloader_pin_memory", "generation_batch_size", "pad_to_multiple_of"),
}


def trainer_text(trainer: Any) -> str:
    """Returns a line about a trainer: its class, policy, step and newest numbers."""
    return f"{type(trainer).__name__}({_policy(trainer)}, {_progress(trainer.state)})"


def trainer_html(trainer: Any) -> str:
    """Returns the card of a trainer: policy, rewards, settings that differ from the defaults, progress and curves."""
    from .charts import training_charts

    settings = ", ".join(f"{name} {value}" for name, value in changed_settings(trainer.args).items())
    data = trainer.train_dataset
    rows = f"{counted(len(data), 'row')}, " if hasattr(data, "__len__") else ""
    facts = {
        "policy": _policy(trainer),
        "data": f"{rows}{counted(trainer.args.num_generations, 'completion')} of each prompt",
        "settings": settings or "the defaults",
        "progress": _progress(trainer.state),
    }
    return card(
        type(trainer).__name__,
        lead=trainer.name,
        facts=facts,
        tables={"": reward_lines(trainer.reward_funcs, trainer.reward_weights.tolist())},
        charts=training_charts({"training": trainer.state.log_history}),
    )


def changed_settings(args: Any) -> dict[str, str]:
    """
    Returns the fields of a configuration that differ from their defaults, as text, without access tokens, also those
    inside `model_init_kwargs`.
    """
    changed = {}
    for field in fields(args):
        value = getattr(args, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        is_left_out = field.name in LEFT_OUT or field.name.endswith("_token")
        if not is_left_out and value != default and (value or default):  # None may become False or empty
            changed[field.name] = str(getattr(value, "value", getattr(value, "__name__", without_secrets(value))))
    if args.steps_per_generation == args.gradient_accumulation_steps:  # its default
        changed.pop("steps_per_generation", None)
    return changed


def _policy(trainer: Any) -> str:
    policy = trainer.accelerator.unwrap_model(trainer.model)
    total = sum(weight.numel() for weight in policy.parameters())
    trained = sum(weight.numel() for weight in policy.parameters() if weight.requires_grad)
    share = "" if trained == total else f", {trained:,} of them trained"
    return f"{type(policy).__name__} of {total:,} parameters{share}"


def _progress(state: Any) -> str:
    """Returns the step of a run, the number of steps, and the newest numbers of the progress bar."""
    if not state.global_step:
        return "not trained yet"
    logged = {name: value for entry in state.log_history for name, value in entry.items()}
    newest = {shown: float(logged[name]) for shown, name in PROGRESS.items() if name in logged}
    return f"step {state.global_step:,} of {state.max_steps:,}: {values_text(newest, most=len(PROGRESS))}"
