"""Which of two graded texts length, BLEU, chrF and a reward model prefer."""

import json
from pathlib import Path

from launching import run_benchmark


def test_a_pair_is_scored_with_the_texts_of_the_other_systems(tmp_path: Path) -> None:
    """In every record the best text shares the words of the other two, and is the longest of the three."""
    texts = (("a trail climbs to the old mill", 9), ("a trail climbs to the mill", 5), ("trees", 1))
    rows = [{"record": f"r{n}", "text": text, "grade": grade} for n in range(4) for text, grade in texts]
    pairs = [{"record": f"s{n}", "text": text, "grade": grade} for n in range(2) for text, grade in texts[:2]]
    (tmp_path / "graded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows[:6], *pairs]))
    columns = {"prompt_template": "{record} ->", "text_column": "text", "grade_columns": ["grade"]}
    names = {"dataset_name": "missing.jsonl", "eval_dataset_name": str(tmp_path / "held_out.jsonl")}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({**names, **columns, "learning_rate": 1e-4}))
    lines = run_benchmark(
        "pair_accuracy.py", "--config", config, "--dataset_name", tmp_path / "graded.jsonl"
    ).splitlines()
    assert lines[:2] == ["6 pairs of 2 records", "left out: 2 pairs of records without a further text"]
    # Where "trees" alone is the reference, BLEU is 0 for both texts, and chrF prefers the shorter one, wrongly.
    assert [line.split()[:2] for line in lines[3:]] == [["longer", "1.000"], ["bleu", "0.833"], ["chrf", "0.667"]]
