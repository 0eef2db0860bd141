"""Runs the code of a notebook without Jupyter; as a script, writes the outputs into it.

PYTHONPATH=. OMP_NUM_THREADS=1 python tests/notebooks.py docs/first_reward.ipynb
"""

import ast
import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from lmrl.data import demo_model_path

# The methods by which an object shows itself, by the type of what they return.
SHOWN = {"text/html": "_repr_html_", "image/svg+xml": "_repr_svg_", "text/plain": "__repr__"}


def read(path: Path) -> dict[str, Any]:
    """Returns a notebook."""
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the code cells in their order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook: dict[str, Any], namespace: dict[str, Any] | None = None) -> list[list[dict[str, Any]]]:
    """Returns the outputs of each code cell, run one after the other in one namespace in this folder."""
    namespace = {} if namespace is None else namespace
    return [
        _outputs("".join(cell["source"]), number, namespace) for number, cell in enumerate(code_cells(notebook), 1)
    ]


def _outputs(source: str, number: int, namespace: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns what a cell prints, and the value of its last line if that is an expression."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    value = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(body, []), f"cell {number}", "exec"), namespace)  # the project's own notebook
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), namespace)
    outputs = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())})
    if value is not None:
        result = {"output_type": "execute_result", "execution_count": number, "metadata": {}}
        outputs.append({**result, "data": shown(value)})
    return outputs


def shown(value: Any) -> dict[str, list[str]]:
    """Returns what a notebook keeps of a value, by type."""
    methods = {kind: getattr(type(value), name, None) for kind, name in SHOWN.items()}
    return {kind: _lines(method(value)) for kind, method in methods.items() if method is not None}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def machine() -> dict[str, str]:
    """Returns what decides the last digits of a number, and with it what is sampled: versions, and a forward pass."""
    model = AutoModelForCausalLM.from_pretrained(demo_model_path())
    with torch.no_grad():
        logits = model(torch.arange(64).view(2, 32)).logits
    digest = hashlib.sha256(logits.numpy().tobytes()).hexdigest()
    return {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "logits": digest[:12]}


def write(path: Path, outputs: list[list[dict[str, Any]]]) -> None:
    """Writes outputs into a notebook, and on what they were computed."""
    notebook = read(path)
    for number, (cell, found) in enumerate(zip(code_cells(notebook), outputs, strict=True), start=1):
        cell["outputs"] = found
        cell["execution_count"] = number
    notebook["metadata"]["outputs_of"] = machine()
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write(target, run(read(target)))
