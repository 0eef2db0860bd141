"""Evaluations to be read: tables, warnings in words, charts, the page."""
