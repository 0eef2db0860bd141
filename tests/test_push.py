"""`push_to_hub` is TRL's and pushes the model with its card last; the Hub is a local server of this test."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from trl import RLOOTrainer

from lmrl.trainers import PPOTrainer, ReinforceTrainer

ROOT = Path(__file__).resolve().parents[1]
PUSHED = [
    *("--max_steps", "2", "--per_device_train_batch_size", "8", "--report_to", "none", "--output_dir", "out"),
    *("--push_to_hub", "true", "--hub_model_id", "me/tuned", "--hub_token", "hf_secret", "--hub_strategy", "end"),
]


class Hub(BaseHTTPRequestHandler):
    """Appends the files of each commit to its server's `commits`, as a dict of bytes by path."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        response: dict[str, Any] = {}
        if self.path.endswith("/repos/create"):
            response = {"url": f"{self.server.address}/me/tuned"}
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            response = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
            self.server.commits.append({name: base64.b64decode(content) for name, content in files.items()})
            self.server.messages.append(lines[0]["value"]["summary"])
            response = {"commitUrl": f"{self.server.address}/me/tuned/commit/0", "commitOid": "0" * 40}
        self.respond(200, response)

    def do_GET(self) -> None:
        self.respond(404, {"error": "there is no such thing"})

    do_HEAD = do_GET

    def respond(self, status: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""


@pytest.fixture
def hub() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address, server.commits, server.messages = f"http://127.0.0.1:{server.server_port}", [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def run_recipe(name: str, argv: list[str], hub: Any, folder: Path) -> None:
    """Runs a recipe in a folder, with the local server as its Hub."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "recipes" / f"{name}.py"), *argv],
        env={**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("trainer_class", [ReinforceTrainer, PPOTrainer])
def test_pushing_is_trl_s(trainer_class: type) -> None:
    assert trainer_class.push_to_hub is RLOOTrainer.push_to_hub


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_what_is_pushed_last_is_the_model_with_its_scores(hub: Any, lora: bool, tmp_path: Path) -> None:
    argv = [
        *("--save_strategy", "steps", "--save_steps", "1", "--eval_rows", "4", "--gradient_accumulation_steps", "1"),
        *("--critic", "shared", "--max_completion_length", "12", "--use_peft", str(lora), *PUSHED),
    ]
    run_recipe("ppo_gen", argv, hub, tmp_path)
    assert hub.messages == ["Model save", "Scores and model card"]
    pushed = hub.commits[-1]
    weights = "adapter_model.safetensors" if lora else "model.safetensors"
    assert {weights, "README.md", "tokenizer.json", "critic/critic.safetensors", "after.json"} <= pushed.keys()
    assert not any(name.startswith("checkpoint-") for name in pushed)
    assert pushed["README.md"] == (tmp_path / "out" / "README.md").read_bytes()
    card = ModelCard(pushed["README.md"].decode())
    assert card.data.model_name == "tuned" and {"trl", "lmrl", "ppo"} <= {*card.data.tags}
    assert card.data.eval_results
    assert not any(b"hf_secret" in content for content in pushed.values())  # training_args.bin would have it
    assert "| `reward` (trained on) |" in card.content and 'model="me/tuned"' in card.content
    draft = hub.commits[0]["README.md"].decode()
    assert "trained with PPO" in draft and "1707.06347" in draft and "## Scores" not in draft


SUPERVISED = {
    "sft": [],  # the demo
    "train_classifier": ["--model_name_or_path", "scratch"],
    "train_reward_model": ["--model_name_or_path", "scratch"],
}
ROWS = {
    "train_classifier": [{"text": f"{word} {row}", "label": word} for row in range(8) for word in ("good", "bad")],
    "train_reward_model": [{"prompt": f"p {row}", "chosen": " good", "rejected": " bad"} for row in range(16)],
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SUPERVISED)
def test_a_supervised_recipe_pushes_model_tokenizer_and_card_last(hub: Any, recipe: str, tmp_path: Path) -> None:
    argv = [*SUPERVISED[recipe], "--eval_rows", "4", *PUSHED]
    if recipe in ROWS:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[recipe]))
        argv += ["--dataset_name", "rows.jsonl"]
    run_recipe(recipe, argv, hub, tmp_path)
    assert hub.messages[-1] == "Scores and model card"
    pushed = hub.commits[-1]
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "report.html"} <= pushed.keys()
    assert pushed["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
    assert pushed["README.md"] == (tmp_path / "out" / "README.md").read_bytes()
    assert not any(name.startswith("checkpoint-") for name in pushed)
    assert not any(b"hf_secret" in content for content in pushed.values())
    card = ModelCard(pushed["README.md"].decode())
    assert card.data.model_name == "tuned" and card.data.eval_results and "## Scores" in card.content
    # Drafts of earlier commits name no scores, and do not replace the card.
    assert all("## Scores" not in commit.get("README.md", b"").decode() for commit in hub.commits[:-1])
