"""The arguments of a recipe as JSON: for programs that run the recipe, such as the sweep."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from lmrl.cli import parse, recipe_arguments

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Arguments:
    """Arguments of several types."""

    rate: float = 0.1
    rows: int | None = None
    kind: Literal["shared", "separate"] = "shared"
    names: list[str] = field(default_factory=lambda: ["bleu"])
    hub_token: str | None = None


def test_arguments_are_printed_with_types_and_values_but_without_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(Arguments, argv=["--rate", "0.5", "--print_arguments", "--hub_token", "secret"])
    assert stopped.value.code == 0
    assert json.loads(capsys.readouterr().out) == {
        "rate": {"type": "float", "value": 0.5},
        "rows": {"type": "int | None", "value": None},
        "kind": {"type": "typing.Literal['shared', 'separate']", "value": "shared"},
        "names": {"type": "list[str]", "value": ["bleu"]},
    }


def test_arguments_are_checked_before_they_are_printed() -> None:
    with pytest.raises(ValueError, match=r"Unknown argument `--rat`\. Did you mean `--rate`\?"):
        parse(Arguments, argv=["--rat", "0.5", "--print_arguments"])


def test_a_recipe_prints_its_arguments_and_a_script_with_another_parser_is_not_run(tmp_path: Path) -> None:
    arguments = recipe_arguments([str(ROOT / "recipes" / "sft.py"), "--dataset_name", "rows.jsonl"])
    assert arguments["dataset_name"] == {"type": "str", "value": "rows.jsonl"}
    assert arguments["learning_rate"]["type"] == "float"
    (tmp_path / "script.py").write_text("from lmrl.cli import run\n\nraise SystemExit('it was run')\n")
    assert recipe_arguments([str(tmp_path / "script.py")]) is None
    own = "import argparse\nfrom lmrl.cli import (\n    parse,\n)\nprint('{}')\n"
    (tmp_path / "script.py").write_text(own)
    assert recipe_arguments([str(tmp_path / "script.py")]) == {}
    with pytest.raises(ValueError, match="Unknown argument `--datset_name`"):
        recipe_arguments([str(ROOT / "recipes" / "sft.py"), "--datset_name", "rows.jsonl"])


def test_one_shipped_file_serves_three_recipes() -> None:
    config = ["--config", str(ROOT / "recipes" / "configs" / "demo_sft_to_ppo.yaml")]
    found = {name: recipe_arguments([str(ROOT / "recipes" / f"{name}.py"), *config]) for name in ("sft", "ppo_gen")}
    sft, ppo = ({name: argument["value"] for name, argument in one.items()} for one in found.values())
    for arguments in (sft, ppo):
        shared = [arguments[name] for name in ("dataset_name", "use_peft", "lora_r", "lora_target_modules")]
        assert shared == ["demo", True, 8, "all-linear"]
    assert ppo["model_name_or_path"] == sft["output_dir"] == "runs/demo_sft_to_ppo/sft"
    assert (sft["max_steps"], ppo["max_steps"], ppo["rewards"]) == (40, 20, ["bleu", "rougeL"])
    evaluation = recipe_arguments([str(ROOT / "recipes" / "evaluate_gen.py"), *config])
    assert evaluation["checkpoints"]["value"] == [f"sft={sft['output_dir']}", f"ppo={ppo['output_dir']}"]
    assert evaluation["dataset_name"]["value"] == "demo" and "lora_r" not in evaluation
