"""The model card: what was trained, on what, for what reward, and whether it got better."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..comparison import Compared, bootstrap_interval, compare_all
from ..encoding import Prompt
from ..evaluate import Evaluation
from ..metrics import Score
from ..rows import Row, data_signature
from .citations import TRL_CITATION
from .curves import Log
from .findings import find_warnings, is_quality, is_rewarded
from .markdown import bullets, code, fenced, plain, table
from .report import package_versions
from .training import data_lines, training_lines
from .wording import listed, number, p_value, with_interval

if TYPE_CHECKING:
    from datasets import Dataset

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def write_card(
    output_dir: str | os.PathLike[str],
    evaluations: Mapping[str, Evaluation],
    rows: "Dataset | Sequence[Row]",
    *,
    algorithm: str,
    citation: str | None,
    settings: Mapping[str, object],
    logs: Mapping[str, Log],
    config: Mapping[str, Any],
    rewarded: Sequence[str],
    compared: Compared | None = None,
) -> str:
    """
    Writes the model card of a trained model as `README.md`, and returns it.

    Its metadata are those of the Hub ([`~huggingface_hub.ModelCardData`], with the last scores as `model-index`), but
    for the licence, which nobody but the author can know. Folders of this machine are named by their last part.

    Args:
        output_dir (`str` or `os.PathLike`):
            Folder of the model.
        evaluations (`dict` of [`Evaluation`]):
            Of the model before and after, in this order.
        rows (`datasets.Dataset` or list of `dict`):
            The rows that were completed; the first one's prompt shows how the model is asked.
        algorithm (`str`):
            Name of the algorithm, as the trainer's class has it (`trainer.name`).
        citation (`str`, *optional*):
            BibTeX of the algorithm's papers (`trainer.citation`).
        settings (`dict`):
            Settings of the algorithm worth reporting, by name (`trainer.reported_settings`); those that are `None` or
            `False` are left out.
        logs (`dict` of log histories):
            Of the training run, by the label of the model after it.
        config (`dict`):
            All settings of the run, by the names that the recipes have.
        rewarded (list of `str`):
            Names of the rewards trained on.
        compared (`dict`, *optional*):
            What [`compare_all`] gives of the scores, if that is there already.

    Returns:
        `str`.
    """
    if compared is None:
        compared = compare_all({label: evaluation.scores for label, evaluation in evaluations.items()})
    *_, (label, last) = evaluations.items()
    name = Path(str(config.get("hub_model_id") or Path(output_dir).resolve())).name
    findings = find_warnings(evaluations, logs=logs, rewarded=rewarded, compared=compared)
    warnings = bullets([plain(sentence) for sentence in findings.warnings])
    sections = {
        f"# {plain(name)}": _introduction(algorithm, config, rewarded),
        "## Use": _use(str(config.get("hub_model_id") or _shown(Path(output_dir))), rows[0]["prompt"], last.decoding),
        "## Scores": _scores(evaluations, compared, rewarded),
        "## Warnings": f"{warnings}\n\n{findings.summary}".strip(),
        "## Training": bullets(training_lines(algorithm, settings, config, logs[label])),
        "## Data": bullets(data_lines(config)),
        "## Rewards": _rewards(config, rewarded, last.scores),
        "## What each score is": table(
            ["score", "signature"], [[code(key), _signature(score)] for key, score in last.scores.items()]
        ),
        "## Versions": ", ".join(f"{package} {version}" for package, version in package_versions().items()),
        "## Citations": fenced("\n\n".join(filter(None, [TRL_CITATION, citation])), "bibtex"),
    }
    body = "\n\n".join(f"{head}\n\n{text}" for head, text in sections.items())
    card = f"---\n{_metadata(name, algorithm, config, last.scores).to_yaml()}\n---\n\n{body}\n"
    ModelCard(card).save(Path(output_dir) / "README.md")
    return card


def hub_id(name: object) -> str | None:
    """
    Returns the name of a model or of a data set if it can be one of the Hub: no folder or file that is here.

    Args:
        name (`object`):
            As it was given to a recipe; `None` is none.
    """
    text = str(name)
    return text if name and _HUB_ID.fullmatch(text) and not Path(text).exists() else None


def _metadata(name: str, algorithm: str, config: Mapping[str, Any], scores: Mapping[str, Score]) -> ModelCardData:
    dataset = str(config.get("eval_dataset_name") or config.get("dataset_name"))
    identifier = hub_id(dataset) or re.sub(r"[^\w.-]+", "-", Path(dataset).stem)
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=identifier,
            dataset_name=Path(dataset).name,
            metric_type=key,
            metric_value=round(score.value, 4),
        )
        for key, score in scores.items()
        if is_quality(score) and math.isfinite(score.value) and not key.startswith("reward/")
    ]
    trained_on = hub_id(config.get("dataset_name"))
    tags = ["trl", "lmrl", algorithm.lower(), "reinforcement-learning"]
    return ModelCardData(
        base_model=hub_id(config.get("model_name_or_path")),
        datasets=[trained_on] if trained_on and trained_on != "demo" else None,
        eval_results=results or None,
        library_name="peft" if config.get("use_peft") else "transformers",
        model_name=name,
        pipeline_tag="text-generation",
        tags=[*tags, "lora"] if config.get("use_peft") else tags,
    )


def _shown(folder: Path) -> Path:
    return Path(folder.name) if folder.is_absolute() else folder


def _introduction(algorithm: str, config: Mapping[str, Any], rewarded: Sequence[str]) -> str:
    base = config.get("model_name_or_path")
    start = f"[{base}](https://huggingface.co/{base})" if hub_id(base) else code(Path(str(base or "lmrl's demo")).name)
    rewards = listed([code(name) for name in rewarded])
    return (
        f"{start}, fine-tuned by reinforcement learning ({algorithm}) for {rewards}, with lmrl and "
        "[TRL](https://github.com/huggingface/trl). Its licence is not stated here: it depends on those of the model "
        "and the data that it was made from."
    )


def _use(model: str, prompt: Prompt, decoding: Mapping[str, Any]) -> str:
    options = {"max_new_tokens": decoding.get("max_new_tokens", 64), "do_sample": bool(decoding.get("do_sample"))}
    if decoding.get("num_beams", 1) > 1:
        options["num_beams"] = decoding["num_beams"]
    given = ", ".join(f"{name}={value}" for name, value in options.items())
    asked = json.dumps(prompt, ensure_ascii=False)
    lines = [
        "from transformers import pipeline",
        "",
        f'generator = pipeline("text-generation", model={json.dumps(model)})',
        f"prompt = {asked}",
        f'print(generator(prompt, {given}, return_full_text=False)[0]["generated_text"])',
    ]
    return fenced("\n".join(lines), "python")


def _scores(evaluations: Mapping[str, Evaluation], compared: Compared, rewarded: Sequence[str]) -> str:
    (first, base), *others = evaluations.items()
    head = ["score", first]
    for label, _ in others:
        head += [label, f"{label} − {first}", "p"]
    rows = []
    for name in dict.fromkeys(name for evaluation in evaluations.values() for name in evaluation.scores):
        cells = [code(name) + (" (trained on)" if is_rewarded(name, rewarded) else ""), _value(base.scores.get(name))]
        for label, evaluation in others:
            difference = compared[label].get(name)
            cells += [_value(evaluation.scores.get(name))]
            cells += [with_interval(*difference.interval), p_value(difference.p_corrected)] if difference else ["", ""]
        rows.append(cells)
    decoding = {key: value for key, value in base.decoding.items() if key != "batch_size"}
    note = (
        f"On {len({completion.row for completion in base.completions})} held-out prompts "
        f"({code(json.dumps(data_signature(base.row_ids)))}), decoded with {code(json.dumps(decoding))}. In brackets "
        "are 95 % intervals of a bootstrap over prompts, of the differences a paired one; p is of approximate "
        "randomization, corrected for the number of scores (Holm). `kl` is in nats per completion, to the model that "
        "this training started from."
    )
    return f"{table(head, rows, right=True)}\n\n{note}"


def _value(score: Score | None) -> str:
    if score is None:
        return ""
    interval = bootstrap_interval(score)
    return (
        number(score.value)
        if math.isnan(interval.low)
        else with_interval(score.value, interval.low, interval.high, sign="")
    )


def _signature(score: Score) -> str:
    """Returns the signature; of the folder of a model only the last part."""
    return code(re.sub(r"(?<=:)(?:[A-Za-z]:\\|/)[^|]*[/\\]", "", score.signature))


def _rewards(config: Mapping[str, Any], rewarded: Sequence[str], scores: Mapping[str, Score]) -> str:
    weights = config.get("reward_weights") or [1.0] * len(rewarded)
    rows = [
        [code(name), f"{weight:g}", _signature(scores[f"reward/{name}"]) if f"reward/{name}" in scores else ""]
        for name, weight in zip(rewarded, weights, strict=True)
    ]
    return table(["reward", "weight", "signature"], rows)
