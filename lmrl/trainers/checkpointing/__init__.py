"""Checkpoints that are complete or not there, and the state of a run beyond what Trainer saves."""
