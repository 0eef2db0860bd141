"""Checks of rows, and their ids, which depend on their content and not on their order."""

import pytest
from datasets import Dataset

from lmrl.evaluation import Decoding, evaluate_model, measure_completions, read_json, to_json, write_json
from lmrl.evaluation.matching import matched
from lmrl.evaluation.outputs import read_outputs
from lmrl.evaluation.rows import checked_rows, data_signature, row_ids

ROWS = [
    {"prompt": "a b", "references": ["c d", "e"]},
    {"prompt": "c", "references": ["f"]},
    {"prompt": "d e f", "references": ["a b c"]},
    {"prompt": "c", "references": ["f"]},
]
TURNED = [ROWS[i] for i in (2, 1, 3, 0)]


def test_rows_of_any_sequence_become_a_list():
    assert checked_rows(tuple(ROWS)) == checked_rows(Dataset.from_list(ROWS)) == ROWS


def test_an_id_depends_on_prompt_and_references_alone():
    ids = row_ids(ROWS)
    assert len(set(ids)) == 4 and ids[3] == f"{ids[1]}.1"  # the same row twice
    assert sorted(row_ids(TURNED)) == sorted(ids)
    assert row_ids([{**row, "note": 1} for row in ROWS]) == ids == row_ids(Dataset.from_list(ROWS))
    assert row_ids([{"prompt": "c"}]) != row_ids([{"prompt": "c", "references": ["f"]}]) == ids[1:2]
    chat = [{"prompt": [{"role": "user", "content": "é"}]}, {"prompt": [{"content": "é", "role": "user"}]}]
    assert row_ids(chat[:1]) == row_ids(chat[1:])


def test_the_signature_of_the_data_does_not_depend_on_the_order_of_the_rows():
    found = data_signature(row_ids(ROWS))
    assert found["rows"] == 4 and len(found["hash"]) == 12
    assert data_signature(row_ids(TURNED)) == found
    for other in (ROWS[:3], [*ROWS[:3], ROWS[0]], [{**ROWS[0], "references": ["c d"]}, *ROWS[1:]]):
        assert data_signature(row_ids(other))["hash"] != found["hash"]
    assert data_signature([]) == {}


def test_an_evaluation_is_read_from_its_file_with_its_row_ids(model, tokenizer, tmp_path):
    found = evaluate_model(model, tokenizer, ROWS, Decoding(max_new_tokens=8), progress=False, reference_model=model)
    write_json(tmp_path / "found.json", found)
    assert read_json(tmp_path / "found.json") == found
    assert to_json(found)["data"] == data_signature(row_ids(ROWS))
    assert found.values == {name: score.value for name, score in found.scores.items()}
    assert found.values["kl"] == 0 and found.row_ids == row_ids(ROWS)


def test_the_same_texts_score_the_same_whatever_the_order_of_the_rows(tmp_path):
    def measured(rows, texts):
        (tmp_path / "out.txt").write_text("\n".join(texts) + "\n")
        return measure_completions(read_outputs(tmp_path / "out.txt", rows), rows)

    first = measured(ROWS, ["c d", "f", "a c", "g"])
    second = matched({"first": first, "second": measured(TURNED, ["a c", "f", "g", "c d"])})["second"]
    assert second.completions == first.completions
    for name, score in first.scores.items():
        assert second.scores[name].row_scores == pytest.approx(score.row_scores, nan_ok=True), name
        assert second.values[name] == pytest.approx(score.value, nan_ok=True), name
