"""Which of two graded texts length, BLEU, chrF and a reward model prefer."""

import json
from pathlib import Path

from launching import run_benchmark


def test_a_pair_is_scored_with_the_texts_of_the_other_systems(tmp_path: Path) -> None:
    """In every record the best text shares the words of the other two, and is the longest of the three."""
    texts = (("a trail climbs to the old mill", 9), ("a trail climbs to the mill", 5), ("trees", 1))
    rows = [{"record": f"r{n}", "text": text, "grade": grade} for n in range(4) for text, grade in texts]
    (tmp_path / "graded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tmp_path / "config.yaml"
    config.write_text(
        'dataset_name: missing.jsonl\nprompt_template: "{record} ->"\ntext_column: text\ngrade_columns: [grade]\n'
        "eval_rows: 6\nlearning_rate: 1.0e-4\n"
    )
    lines = run_benchmark(
        "pair_accuracy.py", "--config", config, "--dataset_name", tmp_path / "graded.jsonl"
    ).splitlines()
    assert lines[0] == "6 pairs of 2 records"
    # Where "trees" alone is the reference, BLEU is 0 for both texts, and chrF prefers the shorter one, wrongly.
    assert [line.split()[:2] for line in lines[2:]] == [["longer", "1.000"], ["bleu", "0.833"], ["chrf", "0.667"]]
