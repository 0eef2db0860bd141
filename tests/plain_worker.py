"""Loads output folders with transformers (peft for adapters) alone, without lmrl and TRL; run by test_deploy.py."""

import contextlib
import importlib.abc
import io
import json
import re
import sys
from pathlib import Path
from typing import Any


class Absent(importlib.abc.MetaPathFinder):
    """Makes the import of a library fail, as if it was not installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] in ("lmrl", "trl"):
            raise ModuleNotFoundError(f"No module named {name!r}")


sys.meta_path.insert(0, Absent())
for absent in ("lmrl", "trl"):
    try:
        __import__(absent)
    except ImportError:
        continue
    sys.exit(f"{absent} can be imported, so this test would show nothing")

from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline


def generate(folder: str, prompts: list[str], length: int) -> dict[str, Any]:
    """Returns greedy completions of a model, one by one, in a padded batch, and by a pipeline."""
    adapter = (Path(folder) / "adapter_config.json").is_file()
    auto = AutoPeftModelForCausalLM if adapter else AutoModelForCausalLM
    info = {} if adapter else {"output_loading_info": True}
    loaded = auto.from_pretrained(folder, **info)
    model, loading = (loaded, {}) if adapter else loaded
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    found: dict[str, Any] = {"loading": {name: list(keys) for name, keys in loading.items() if keys}, "alone": []}
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=length, do_sample=False)
        found["alone"].append(tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    ids = model.generate(**inputs, max_new_tokens=length, do_sample=False)
    found["batch"] = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    complete = pipeline("text-generation", model=folder)
    completions = [
        complete(prompt, max_new_tokens=length, do_sample=False, return_full_text=False) for prompt in prompts
    ]
    return {**found, "pipeline": [completion[0]["generated_text"] for completion in completions]}


def classify(folder: str, texts: list[str], function: str) -> dict[str, Any]:
    """Returns the scores of texts by label, in padded batches."""
    _, loading = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    found = pipeline("text-classification", model=folder)(texts, function_to_apply=function, top_k=None, batch_size=2)
    scores = [{one["label"]: one["score"] for one in row} for row in found]
    return {"loading": {name: list(keys) for name, keys in loading.items() if keys}, "scores": scores}


def use(card: str) -> str:
    """Returns the output of the example in a model card."""
    example = re.search(r"## Use\n\n(`{3,})python\n(.*?)\n\1\n", Path(card).read_text(encoding="utf-8"), re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(example[2], {})
    return printed.getvalue()


WHAT = {"generate": generate, "classify": classify, "use": use}

if __name__ == "__main__":
    print(json.dumps([WHAT[job.pop("what")](**job) for job in json.load(sys.stdin)]))
