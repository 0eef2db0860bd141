"""A Gymnasium environment with the task of the trainers, for other RL libraries."""

try:
    import gymnasium
except ImportError as error:
    raise ImportError("lmrl.envs needs gymnasium, which is not installed. Run: pip install 'lmrl[envs]'") from error

from .text_generation import TextGeneration

__all__ = ["TextGeneration"]

gymnasium.register("lmrl/TextGeneration-v0", entry_point="lmrl.envs:TextGeneration")
