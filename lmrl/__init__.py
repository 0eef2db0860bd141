"""Fine-tunes causal language models on sequence-level rewards with REINFORCE and PPO, on top of TRL."""

import logging
from typing import TYPE_CHECKING, Any

from lmrl.version import __version__

if TYPE_CHECKING:
    from lmrl.trainers import PPOConfig, PPOTrainer, ReinforceConfig, ReinforceTrainer

# PEFT imports bitsandbytes if it is installed, which warns on some CPUs of a missing kernel for weights in 4 bits,
# also where no weights are in 4 bits.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "gemm_4bit_forward from kernels-community" not in record.getMessage()
)

__all__ = ["PPOConfig", "PPOTrainer", "ReinforceConfig", "ReinforceTrainer", "__version__"]


def __getattr__(name: str) -> Any:
    """Returns a trainer or its configuration, loaded at its first use: `import lmrl` loads no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lmrl import trainers

    return getattr(trainers, name)
