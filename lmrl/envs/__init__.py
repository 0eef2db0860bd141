"""The task of the trainers as a Gymnasium environment, for any library that speaks to one."""

try:
    import gymnasium
except ImportError as error:
    raise ImportError("gymnasium is not installed, and lmrl.envs needs it: pip install 'lmrl[envs]'") from error

from .text_generation import TextGeneration

__all__ = ["TextGeneration"]

gymnasium.register("lmrl/TextGeneration-v0", entry_point="lmrl.envs:TextGeneration")
