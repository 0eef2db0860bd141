"""Evaluations that are written as JSON and read back."""

import json
import math

import pytest

from lmrl.evaluation import (
    Completion,
    Evaluation,
    Score,
    measure_completions,
    read_json,
    read_outputs,
    to_json,
    write_json,
)


def test_json_is_read_as_it_was_written(tmp_path):
    evaluation = Evaluation(
        [Completion(0, 0, "zwei Wörter", 3, True), Completion(1, 0, "", 8, False)],
        {
            "bleu": Score("bleu", 71.8, "tok:13a", [70.0, 73.5], True, "mean", [[70.0, 1.0], [73.5, 1.0]]),
            "distinct1": Score("distinct1", 0.5, "n:1", None, True),
        },
        {"max_new_tokens": 8, "do_sample": False},
        ["3f", "9a"],
    )
    path = tmp_path / "new" / "sft.json"
    write_json(path, evaluation)
    assert read_json(path) == evaluation
    assert [file.name for file in path.parent.iterdir()] == ["sft.json"]
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["scores"]["bleu"]["signature"] == "tok:13a" and data["completions"][0]["text"] == "zwei Wörter"
    assert {"python", "torch", "transformers", "sacrebleu"} <= set(data["versions"])


def test_numbers_that_json_lacks_are_null(tmp_path):
    evaluation = Evaluation([], {"r": Score("r", math.nan, "", [math.inf, math.nan, 0.0], True)}, {})
    assert to_json(evaluation)["scores"]["r"]["row_scores"] == [None, None, 0.0]
    write_json(tmp_path / "x.json", evaluation)
    score = read_json(tmp_path / "x.json").scores["r"]
    assert math.isnan(score.value) and math.isnan(score.row_scores[0]) and score.row_scores[2] == 0.0


@pytest.mark.parametrize(
    "content",
    [b"", b'{"scores": {', b"[]", b"{}", b'{"scores": {"bleu": {"value": 1.0}}, "completions": []}', b'{"a": "\xff"}'],
)
def test_a_file_without_an_evaluation_is_named(tmp_path, content):
    (tmp_path / "after.json").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"after\.json' must have an evaluation that lmrl wrote, got .* Evaluate it again"
    ):
        read_json(tmp_path / "after.json")


def test_a_lone_surrogate_of_a_text_from_a_file_is_written_and_read(tmp_path):
    rows = [{"prompt": "p", "references": ["\ud83d"]}]
    (tmp_path / "texts.jsonl").write_text('{"text": "half a smile \\ud83d"}\n')
    found = measure_completions(read_outputs(tmp_path / "texts.jsonl", rows), rows, metrics=["length"])
    write_json(tmp_path / "found.json", found)
    assert read_json(tmp_path / "found.json").completions[0].text == "half a smile \ud83d"
