"""Generation in one process that is killed, and its continuation in two; run by test_store.py, writes results."""

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from torch import distributed
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmrl.cli import run
from lmrl.distributed import on_main
from lmrl.evaluation import CompletionStore, Decoding, evaluate_model, generate_completions

DECODING = Decoding(max_new_tokens=12, do_sample=True, num_samples=2, batch_size=2)


def killed(folder, model, tokenizer, prompts):
    """Kills its process while the third batch is generated."""
    generate, calls = model.generate, []

    def generate_or_die(**kwargs):
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(1)
        return generate(**kwargs)

    model.generate = generate_or_die
    store = CompletionStore(folder / "partial", "m")
    generate_completions(model, tokenizer, prompts, DECODING, store=store, progress=False)


def resumed(folder, model, tokenizer, prompts):
    """Generates everything once by each process alone, and then by both together."""
    rows = [{"prompt": prompt} for prompt in prompts]
    alone = generate_completions(model, tokenizer, prompts, DECODING, progress=False)
    distributed.init_process_group("gloo")
    fresh = generate_completions(model, tokenizer, prompts, DECODING, progress=False)
    found = {"alone": alone, "fresh": fresh}
    generate, calls, scored = model.generate, [], []
    model.generate = lambda **kwargs: calls.append(1) or generate(**kwargs)
    store = CompletionStore(folder / "partial", "m")
    found["resumed"] = generate_completions(model, tokenizer, prompts, DECODING, store=store, progress=False)
    batches = len(calls)

    def counted(*, completions, **_):
        scored.append(1)
        return [0.0] * len(completions)

    evaluation = evaluate_model(model, tokenizer, rows, DECODING, reward_funcs=[counted], store=store, progress=False)
    found["evaluated"] = evaluation.completions

    def fail():
        raise ValueError("only the first process sees this")

    try:
        on_main(fail)
        error = ""
    except ValueError as caught:
        error = f"{type(caught).__name__}: {caught}"
    lines = {name: [asdict(completion) for completion in completions] for name, completions in found.items()}
    rank = distributed.get_rank()
    written = {**lines, "error": error, "batches": batches, "scored": len(scored)}
    (folder / f"{rank}.json").write_text(json.dumps(written))


def main(task, folder):
    """Does one of the two on the model and the prompts of the folder."""
    prompts = json.loads((folder / "prompts.json").read_text())
    generation = {"killed": killed, "resumed": resumed}[task]
    model = AutoModelForCausalLM.from_pretrained(folder)
    generation(folder, model, AutoTokenizer.from_pretrained(folder), prompts)


if __name__ == "__main__":
    run(lambda: main(sys.argv[1], Path(sys.argv[2])))
