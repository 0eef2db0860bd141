"""What is drawn: charts, cards for notebooks, numbers as text. Plain values in, SVG and HTML out."""

from .cards import Picture, card, reward_card, training_curves

__all__ = ["Picture", "card", "reward_card", "training_curves"]
