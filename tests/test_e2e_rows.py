"""The rows of the study of the gap: nine tenths, a tenth, and meaning representations less a slot."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_e2e_rows.py"


def written(folder: Path, name: str) -> list[dict[str, Any]]:
    """Returns the rows of one of the files."""
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_a_tenth_is_held_out_and_slots_are_dropped_with_what_names_them(tmp_path: Path) -> None:
    rows = [
        {
            "mr": f"name[A{n}], food[Thai], area[riverside], familyFriendly[yes]",
            "references": [f"A{n} has Thai food.", f"A{n} is by the river.", f"A{n}, for families.", "thai"],
        }
        for n in range(30)
    ]
    held_out = {"mr": "name[A3], area[riverside], familyFriendly[yes]", "references": ["A3"]}
    for name, part in (("train", rows), ("dev", [held_out])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    for out in ("one", "two"):
        subprocess.run([sys.executable, SCRIPT, tmp_path, tmp_path / out], check=True)
    most, tenth, trained, dropped = (
        written(tmp_path / "one", name) for name in ("most", "tenth", "trained", "dropped")
    )
    assert (len(most), len(tenth)) == (27, 3) and trained == most[:3]
    assert sorted([*most, *tenth], key=lambda row: row["mr"]) == sorted(rows, key=lambda row: row["mr"])
    assert dropped == written(tmp_path / "two", "dropped") and dropped[:27] == most
    known = {row["mr"].partition(",")[0].removeprefix("name[").removesuffix("]") for row in most}
    # No reference names "riverside", and two do not name "Thai". The name and "yes" are never dropped.
    without_area = {f"name[{name}], food[Thai], familyFriendly[yes]": 4 for name in known}
    without_food = {f"name[{name}], area[riverside], familyFriendly[yes]": 2 for name in known - {"A3"}}
    assert {row["mr"]: len(row["references"]) for row in dropped[27:]} == without_area | without_food


def test_typical_references_are_those_nearest_to_the_rows_other_ones() -> None:
    near = ["A has good Thai food by the river.", "A has Thai food by the river."]
    rows = [
        # A copy of a reference is none of its others.
        {"mr": "name[A]", "references": ["For families.", near[0], "For families.", near[1]]},
        {"mr": "name[B]", "references": ["One.", "Two."]},
    ]
    typical = runpy.run_path(str(SCRIPT))["with_typical_references"](rows)
    assert [(row["mr"], sorted(row["references"])) for row in typical] == [
        ("name[A]", sorted(near)),
        ("name[B]", ["One.", "Two."]),
    ]
