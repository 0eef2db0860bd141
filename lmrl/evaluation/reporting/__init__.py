"""The report of an evaluation: tables, warnings, charts, the page and the model card."""
