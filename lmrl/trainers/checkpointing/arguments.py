"""The arguments of a resumed run, compared with those of the run that saved its checkpoint."""

import json
from typing import Any

from accelerate.logging import get_logger
from accelerate.utils import is_peft_model
from trl import RLOOConfig

logger = get_logger(__name__)

# Loaded with the optimizer: those of the checkpoint are what the run goes on with.
KEPT = ("learning_rate", "critic_learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
# What the saved weights and states belong to: the optimizer, and of an adapter all that its weights depend on.
ADAPTER = ("peft_type", "r", "lora_alpha", "target_modules", "modules_to_save", "bias", "use_dora", "use_rslora")
FIXED = ("optim", *ADAPTER)
# Where and how a run is shown.
IGNORED = ("output_dir", "run_name", "resume_from_checkpoint", "report_to", "disable_tqdm")


def plain_arguments(args: RLOOConfig, model: Any) -> dict[str, Any]:
    """Returns the arguments of a run, those of its policy's adapter among them, as JSON has them."""
    config = model.active_peft_config.to_dict() if is_peft_model(model) else {}
    adapter = {name: config.get(name) for name in ADAPTER}
    plain = json.dumps({**args.to_dict(), **adapter}, default=lambda v: sorted(v) if isinstance(v, set) else str(v))
    return dict(json.loads(plain))


def compare_arguments(checkpoint: str, state: dict[str, Any] | None, args: RLOOConfig, model: Any) -> None:
    """
    Compares the arguments of a run with those in the state of a checkpoint. Those that go with its optimizer are kept,
    and written into `args`, which reports read; the others are taken; a warning has both.

    Raises:
        ValueError: If the checkpoint is of another optimizer, or of another adapter.
    """
    saved = (state or {}).get("arguments", {})
    given = plain_arguments(args, model)
    changed = [name for name in given if name in saved and name not in IGNORED and saved[name] != given[name]]
    for name in changed:
        if name in FIXED:
            raise ValueError(
                f"`{name}` must be {saved[name]!r}, that of {checkpoint}, got {given[name]!r}. Resume with it, or "
                "start anew from the checkpoint as the model."
            )
        if name in KEPT:
            setattr(args, name, saved[name])
    kept = [f"{name}={saved[name]} (not {given[name]})" for name in changed if name in KEPT]
    taken = [f"{name}={given[name]} (was {saved[name]})" for name in changed if name not in KEPT]
    if changed:
        logger.warning(
            f"{checkpoint} was saved with other arguments. Kept, as the state of its optimizer has them: "
            f"{', '.join(kept) or 'none'}. Taken: {', '.join(taken) or 'none'}."
        )
