"""Charts, cards for notebooks, and numbers as text: plain values in, SVG and HTML out."""

from .cards import Picture, card, reward_card, training_curves

__all__ = ["Picture", "card", "reward_card", "training_curves"]
