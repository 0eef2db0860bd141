"""Interrupted evaluations are continued, with the result of uninterrupted ones."""

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lmrl.evaluation import CompletionStore, Decoding, evaluate_model, generate_completions
from lmrl.evaluation.store import store_key

HERE = Path(__file__).parent
SAMPLED = {"do_sample": True, "num_samples": 2, "batch_size": 2}


class Stopped(Exception):
    """Raised by the tests to interrupt a generation."""


@pytest.fixture
def store(tmp_path):
    return CompletionStore(tmp_path / "partial", "a/b")


@pytest.fixture
def calls(model, monkeypatch):
    """Counts the batches that the model generates."""
    counted, generate = [], model.generate
    monkeypatch.setattr(model, "generate", lambda **kwargs: counted.append(len(counted)) or generate(**kwargs))
    return counted


def generate(model, tokenizer, prompts, store=None, **settings):
    progress = settings.pop("progress", False)
    decoding = Decoding(**{"max_new_tokens": 12, **SAMPLED, **settings})
    return generate_completions(model, tokenizer, prompts, decoding, store=store, progress=progress)


def stop_at(model, monkeypatch, batch):
    """Makes the generation of that batch fail, counted from 1."""
    generate, left = model.generate, [batch - 1]

    def stopping(**kwargs):
        if not left[0]:
            raise Stopped
        left[0] -= 1
        return generate(**kwargs)

    monkeypatch.setattr(model, "generate", stopping)


def stopped(model, tokenizer, prompts, store, monkeypatch, batch=3):
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        stop_at(model, patched, batch)
        generate(model, tokenizer, prompts, store)


@pytest.mark.parametrize("settings", [SAMPLED, {"do_sample": False, "num_samples": 1, "batch_size": 2}])
def test_an_interrupted_generation_is_continued_with_the_result_of_an_uninterrupted_one(
    model, tokenizer, prompts, store, calls, monkeypatch, settings
):
    expected = generate(model, tokenizer, prompts, **settings)
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        stop_at(model, patched, 3)
        generate(model, tokenizer, prompts, store, **settings)
    calls.clear()
    assert generate(model, tokenizer, prompts, store, **settings) == expected
    assert len(calls) == 2  # of four
    assert generate(model, tokenizer, prompts, store, **settings) == expected
    assert len(calls) == 2


def test_a_batch_cut_short_by_a_kill_is_generated_again(model, tokenizer, prompts, store, calls, monkeypatch):
    expected = generate(model, tokenizer, prompts)
    stopped(model, tokenizer, prompts, store, monkeypatch)
    (file,) = store.folder.iterdir()
    content = file.read_text()
    for cut in (1, 20, len(content.splitlines()[-1])):
        file.write_text(content[:-cut])
        calls.clear()
        assert generate(model, tokenizer, prompts, store) == expected
        assert len(calls) == 3
        assert generate(model, tokenizer, prompts, store) == expected
        assert len(calls) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"max_new_tokens": 11},
        {"temperature": 0.9},
        {"top_p": 0.9},
        {"num_samples": 1},
        {"batch_size": 3},
        {"do_sample": False, "num_samples": 1},
        {"do_sample": False, "num_samples": 1, "num_beams": 2},
    ],
)
def test_another_setting_starts_from_the_beginning(model, tokenizer, prompts, store, calls, change):
    generate(model, tokenizer, prompts, store)
    calls.clear()
    found = generate(model, tokenizer, prompts, store, **change)
    assert len(calls) == -(-len(prompts) // change.get("batch_size", 2))
    assert found == generate(model, tokenizer, prompts, **change)


def test_other_weights_prompts_and_eos_ids_start_from_the_beginning(model, tokenizer, prompts, store, calls):
    expected = generate(model, tokenizer, prompts, store)
    calls.clear()
    assert generate(model, tokenizer, [*prompts[:-1], "a"], store) != expected
    assert len(calls) == 4
    model.generation_config.eos_token_id = [0, 2]
    assert not any("stop" in completion.text for completion in generate(model, tokenizer, prompts, store))
    assert len(calls) == 8
    model.generation_config.eos_token_id = 0
    assert generate(model, tokenizer, prompts, store) == expected
    assert len(calls) == 8
    with torch.no_grad():
        model.lm_head.weight[3, 0] += 1
    assert generate(model, tokenizer, prompts, store) != expected
    assert len(calls) == 12


def test_the_key_changes_with_the_smallest_change_of_a_weight_and_with_its_place(model):
    keys = {store_key(model, [[1]], {"n": 1}), store_key(model, [[2]], {"n": 1}), store_key(model, [[1]], {"n": 2})}
    weight = model.transformer.wte.weight
    for change in (
        lambda: weight[4, 4].copy_(torch.nextafter(weight[4, 4], torch.tensor(9.0))),
        lambda: weight.copy_(weight[[0, 2, 1, *range(3, 12)]]),
        lambda: model.transformer.h[0].attn.c_attn.bias[:2].copy_(torch.tensor([1e-30, -1e-30])),
        lambda: model.to(torch.bfloat16),
    ):
        with torch.no_grad():
            change()
        keys.add(store_key(model, [[1]], {"n": 1}))
    assert len(keys) == 7
    assert store_key(copy.deepcopy(model), [[1]], {"n": 1}) in keys
    assert all(len(key) == 12 for key in keys)


def test_the_key_changes_with_the_config_and_the_scale_of_an_adapter(model):
    torch.manual_seed(0)
    keys = {store_key(model, [[1]], {})}
    model.config.layer_norm_epsilon = 0.5
    keys.add(store_key(model, [[1]], {}))
    for alpha in (4, 8):
        with torch.random.fork_rng():
            adapted = get_peft_model(
                copy.deepcopy(model), LoraConfig(r=2, lora_alpha=alpha, target_modules=["c_attn"], fan_in_fan_out=True)
            )
        keys.add(store_key(adapted, [[1]], {}))
    assert len(keys) == 4
    assert store_key(adapted, [[1]], {}) in keys


def test_texts_are_read_as_they_were_written(store):
    texts = ["", "a\nb\r\nc\r", "\u2028\u2029\x85\x0b\x0c\x1c", 'quote "x" \\n', "日本 🦉", "\x00"]
    lines = [{"row": row, "sample": 0, "text": text, "length": 1, "finished": True} for row, text in enumerate(texts)]
    store.append("0" * 12, 0, 0, lines[:3])
    store.append("0" * 12, 1, 3, lines[3:])
    assert store.read("0" * 12) == {0: lines[:3], 3: lines[3:]}
    assert store.read("1" * 12) == {}


def test_a_damaged_batch_is_not_read(store):
    lines = [{"row": 0, "sample": 0, "text": "a text", "length": 1, "finished": True}]
    for start in (0, 1):
        store.append("0" * 12, 0, start, lines)
    (file,) = store.folder.iterdir()
    file.write_bytes(file.read_bytes().replace(b"a text", b"a \xffxt", 1))
    assert store.read("0" * 12) == {1: lines}


def test_remove_deletes_the_files_of_this_name_only(store):
    store.remove()  # nothing there
    longer = CompletionStore(store.folder, "a/b-c")
    for key in ("0" * 12, "f" * 12):
        store.append(key, 0, 0, [])
    longer.append("0" * 12, 0, 0, [])
    store.remove()
    assert [file.name for file in store.folder.iterdir()] == ["a_b-c-000000000000.0.jsonl"]
    longer.remove()
    assert not store.folder.exists() and store.folder.parent.exists()


def test_the_progress_bar_counts_the_batches_of_the_store(model, tokenizer, prompts, store, monkeypatch, capsys):
    stopped(model, tokenizer, prompts, store, monkeypatch)
    capsys.readouterr()
    generate(model, tokenizer, prompts, store, progress=True)
    bar = capsys.readouterr().err
    assert " 8/16 " in bar.split("\r")[1] and " 16/16 " in bar.split("\r")[-1]


def test_an_interrupted_evaluation_is_continued(model, tokenizer, prompts, store, calls, monkeypatch):
    rows = [{"prompt": prompt, "references": ["a b"]} for prompt in prompts]
    decoding = Decoding(max_new_tokens=12, **SAMPLED)
    expected = evaluate_model(model, tokenizer, rows, decoding, progress=False)
    stopped(model, tokenizer, prompts, store, monkeypatch)
    calls.clear()
    assert evaluate_model(model, tokenizer, rows, decoding, store=store, progress=False) == expected
    assert len(calls) == 2


def run_worker(task, folder, processes):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2"] if processes == 2 else []
    launcher += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"] if processes == 2 else []
    return subprocess.run(
        [sys.executable, *launcher, str(HERE / "store_worker.py"), task, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_killed_run_is_continued_in_two_processes_with_the_texts_of_one(model, tokenizer, prompts, tmp_path):
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    killed = run_worker("killed", tmp_path, 1)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    done = run_worker("resumed", tmp_path, 2)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [len(found["alone"]) for found in seen] == [16, 16]
    for found in seen:
        assert found["fresh"] == found["resumed"] == found["evaluated"] == found["alone"]
        assert found["error"] == "ValueError: only the first process sees this"
    assert [found["scored"] for found in seen] == [1, 0]  # the first process scores for all
    assert [found["batches"] for found in seen] == [1, 1]  # of four, two were there
