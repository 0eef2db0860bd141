"""The files for GitHub and for contributors: they name commands that exist, and hooks that install nothing."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import lmrl

ROOT = Path(__file__).resolve().parents[1]
YAML_FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in (".github/**/*.yml", ".pre-commit-config.yaml", "CITATION.cff")
    for path in ROOT.glob(pattern)
)


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", YAML_FILES)
def test_a_file_is_valid_yaml(name: str) -> None:
    assert read(name)


@pytest.mark.parametrize("name", ["ci", "nightly"])
def test_workflows_run_commands_of_the_project(name: str) -> None:
    (job,) = read(f".github/workflows/{name}.yml")["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    scripts = [command.split()[0] for command in commands if re.match(r"\.ci/|\./scripts/", command)]
    assert scripts and all((ROOT / script).is_file() for script in scripts)


def test_every_python_from_the_oldest_on_is_checked() -> None:
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert ".ci/run" in [step.get("run") for step in job["steps"]]


def test_the_nightly_run_may_fail() -> None:
    (job,) = read(".github/workflows/nightly.yml")["jobs"].values()
    assert job["continue-on-error"] is True


def test_hooks_mend_with_the_ruff_of_the_project_and_install_nothing() -> None:
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    assert [hook["entry"].split()[:2] for hook in repository["hooks"]] == [
        [".venv/bin/ruff", "check"],
        [".venv/bin/ruff", "format"],
    ]


def test_the_version_has_one_source() -> None:
    assert f'__version__ = "{lmrl.__version__}"' in (ROOT / "lmrl" / "version.py").read_text(encoding="utf-8")
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in pyproject and not re.search(r"^version = ", pyproject, flags=re.MULTILINE)
    assert "version" not in read("CITATION.cff")
