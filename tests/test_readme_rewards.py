"""Every reward has its row in docs/rewards.md, and the example in each row is made and called."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_gpt2, tiny_tokenizer
from transformers import BertConfig, BertModel, GPT2Config, GPT2ForSequenceClassification

from lmrl import rewards

PAGE = (Path(__file__).resolve().parents[1] / "docs/rewards.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ((?:`\w+` ?)+)\| `(.+?)` \| (.+?) \| (.*?) ?\| .+ \|$", PAGE, flags=re.MULTILINE)
EXAMPLES = [(names.replace("`", "").split()[0], example, scope) for names, example, scope, _ in ROWS]
TABLE = [row for row in EXAMPLES if row[0] in rewards.REWARDS]

COMPLETIONS = ["Result: 7 a b c d e f", "The Mill serves food", "", "w1 w2 w3"]
COLUMNS = {
    "references": [["a b c d e", "Result: 7"], ["The Mill serves French food"], ["a b"], ["w1 w2 w3"]],
    "mr": ["name[a b], food[z]", "name[The Mill], food[French]", "name[w1]", "name[w1]"],
}
BOUNDS = {"0 to 1": (0, 1), "0 or 1": (0, 1), "0 to 10": (0, 10), "−1 to 0": (-1, 0), "up to 0": (-math.inf, 0)}

SAME_LENGTH = """
import datasets
import evaluate


class SameLength(evaluate.Metric):
    def _info(self):
        texts = datasets.Value("string")
        features = datasets.Features({"predictions": texts, "references": datasets.Sequence(texts)})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"same_length": float(len(predictions[0]) == len(references[0][0]))}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with all that the examples name."""
    root = tmp_path_factory.mktemp("readme")
    tiny_gpt2(root / "runs/sft")
    sizes = {"vocab_size": 64, "n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2, "pad_token_id": 0}
    labels = {0: "negative", 1: "positive"}
    models: dict[str, Callable[[], Any]] = {
        "runs/classifier": lambda: GPT2ForSequenceClassification(GPT2Config(**sizes, id2label=labels)),
        "runs/reward_model": lambda: GPT2ForSequenceClassification(GPT2Config(**sizes, num_labels=1)),
        "models/encoder": lambda: BertModel(
            BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
        ),
    }
    for name, model in models.items():
        torch.manual_seed(0)
        model().save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    (root / "data").mkdir()
    lines = [json.dumps({"references": row}) for row in COLUMNS["references"]]
    (root / "data/train.jsonl").write_text("\n".join(lines))
    (root / "metrics").mkdir()
    (root / "metrics/same_length.py").write_text(SAME_LENGTH)
    return root


def test_every_reward_has_its_row() -> None:
    named = {name for names, *_ in ROWS for name in names.replace("`", "").split()}
    assert set(rewards.REWARDS) <= named, set(rewards.REWARDS) - named


@pytest.mark.parametrize(("name", "example", "scope"), TABLE, ids=[name for name, *_ in TABLE])
def test_the_example_is_made_and_stays_in_its_range(
    name: str, example: str, scope: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    reward = eval(example, vars(rewards))  # the project's own page
    values = reward(prompts=["p"] * len(COMPLETIONS), completions=COMPLETIONS, **COLUMNS)
    assert len(values) == len(COMPLETIONS) and any(value is not None for value in values)
    low, high = BOUNDS.get(scope, reward.range)
    assert all(low <= value <= high for value in values if value is not None), values
    assert low <= reward.range[0] or reward.range[0] == -math.inf or scope == "0 to 1"
