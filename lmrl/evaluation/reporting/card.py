"""The model card of a trained model."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..comparison import Compared, compare_all
from ..encoding import Prompt
from ..evaluate import Evaluation
from ..rows import Row, data_signature
from ..scores import Score
from .curves import Log, curve
from .findings import find_warnings, is_quality, is_rewarded
from .markdown import code
from .serialization import package_versions
from .templating import render
from .wording import difference_text, p_value, score_text

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

    Its metadata are those of the Hub ([`~huggingface_hub.ModelCardData`], with the last scores as `model-index`),
    except for the licence, which only the author knows. Of local paths only the last part is written.

    Args:
        output_dir (`str` or `os.PathLike`):
            Folder of the model.
        evaluations (`dict` of [`Evaluation`]):
            Of the model before and after training, in this order.
        rows (`datasets.Dataset` or list of `dict`):
            The evaluated rows; the first prompt becomes the example of how to use the model.
        algorithm (`str`):
            Name of the algorithm (`trainer.name`).
        citation (`str`, *optional*):
            BibTeX of the algorithm's papers (`trainer.citation`).
        settings (`dict`):
            Settings of the algorithm worth reporting, by name (`trainer.reported_settings`); those that are `None` or
            `False` are left out.
        logs (`dict` of log histories):
            Of the training run, by the label of the model after it.
        config (`dict`):
            All settings of the run, by the names of the recipes' options.
        rewarded (list of `str`):
            Names of the rewards trained on.
        compared (`dict`, *optional*):
            Result of [`compare_all`] for the scores; computed if not given.

    Returns:
        `str`.
    """
    if compared is None:
        compared = compare_all({label: evaluation.scores for label, evaluation in evaluations.items()})
    baseline, base = next(iter(evaluations.items()))
    *_, (label, last) = evaluations.items()
    log = logs[label]
    model_id = config.get("hub_model_id")
    folder = Path(output_dir)
    name = Path(str(model_id or folder.resolve())).name
    reference = config.get("reference_model_name_or_path")
    text = render(
        "card.md",
        card_data=_metadata(name, algorithm, config, last.scores).to_yaml(),
        name=name,
        base_model=_base_model(config.get("model_name_or_path")),
        algorithm=algorithm,
        citation=citation,
        settings=_options(settings, *settings),
        example=_example(str(model_id or (folder.name if folder.is_absolute() else folder)), rows[0]["prompt"], last),
        baseline=baseline,
        compared=compared,
        scores=_scores(evaluations, compared, rewarded),
        prompts=len({completion.row for completion in base.completions}),
        data=json.dumps(data_signature(base.row_ids)),
        decoding=json.dumps({key: value for key, value in base.decoding.items() if key != "batch_size"}),
        findings=find_warnings(evaluations, logs=logs, rewarded=rewarded, compared=compared),
        steps=max((int(row["step"]) for row in log if "step" in row), default=0),
        config=config,
        options=lambda *names: _options(config, *names),
        reference_model=_local_name(reference) if reference else "the model that this training started from",
        final_kl=next((value for _, value in reversed(curve(log, "kl_per_sequence"))), None),
        train_dataset=_local_name(config.get("dataset_name")),
        eval_dataset=_local_name(config.get("eval_dataset_name")),
        rewarded=rewarded,
        rewards=_rewards(config.get("reward_weights"), rewarded, last.scores),
        signatures=[[code(key), _signature(score)] for key, score in last.scores.items()],
        versions=package_versions(),
    )
    card = ModelCard(text)
    card.save(folder / "README.md")
    return text


def hub_id(name: object) -> str | None:
    """
    Returns the name of a model or a data set if it can be one of the Hub, `None` for a local folder or file.

    Args:
        name (`object`):
            As it was passed to a recipe; may be `None`.
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


def _base_model(name: str | None) -> str:
    """Returns a link to a model of the Hub, or the last part of a local path as code."""
    if hub_id(name):
        return f"[{name}](https://huggingface.co/{name})"
    return code(Path(name or "lmrl's demo").name)


def _example(model: str, prompt: Prompt, evaluation: Evaluation) -> str:
    """Returns Python code that completes a prompt as in the evaluation."""
    decoding = evaluation.decoding
    options = {"max_new_tokens": decoding.get("max_new_tokens", 64), "do_sample": bool(decoding.get("do_sample"))}
    if decoding.get("num_beams", 1) > 1:
        options["num_beams"] = decoding["num_beams"]
    arguments = ", ".join(f"{name}={value}" for name, value in options.items())
    return (
        "from transformers import pipeline\n\n"
        f'generator = pipeline("text-generation", model={json.dumps(model)})\n'
        f"prompt = {json.dumps(prompt, ensure_ascii=False)}\n"
        f'print(generator(prompt, {arguments}, return_full_text=False)[0]["generated_text"])'
    )


def _scores(evaluations: Mapping[str, Evaluation], compared: Compared, rewarded: Sequence[str]) -> list[list[str]]:
    rows = []
    for name in dict.fromkeys(name for evaluation in evaluations.values() for name in evaluation.scores):
        cells = [code(name) + (" (trained on)" if is_rewarded(name, rewarded) else "")]
        for label, evaluation in evaluations.items():
            cells.append(score_text(evaluation.scores.get(name)))
            if label in compared:
                difference = compared[label].get(name)
                cells.append(difference_text(difference).replace("*", r"\*"))
                cells.append(p_value(difference.p_corrected) if difference else "")
        rows.append(cells)
    return rows


def _rewards(
    weights: Sequence[float] | None, rewarded: Sequence[str], scores: Mapping[str, Score]
) -> list[tuple[str, str, str]]:
    rows = []
    for name, weight in zip(rewarded, weights or [1.0] * len(rewarded), strict=True):
        score = scores.get(f"reward/{name}")
        rows.append((code(name), f"{weight:g}", _signature(score) if score else ""))
    return rows


def _signature(score: Score) -> str:
    """Returns the signature as code, with local paths cut to their last part."""
    return code(re.sub(r"(?<=:)(?:[A-Za-z]:\\|/)[^|]*[/\\]", "", score.signature))


def _options(config: Mapping[str, object], *names: str) -> str:
    """Returns the options that are set as code, `name=value`; 0 is a value, `None` and `False` are not."""
    values = {name: config.get(name) for name in names}
    shown = {name: value for name, value in values.items() if value is not None and value is not False}
    return ", ".join(code(f"{name}={getattr(value, '__name__', value)}") for name, value in shown.items())


def _local_name(name: object) -> str:
    """Returns the name of a model or a data set as code, cut to its last part if it is a local path."""
    if name is None:
        return ""
    return code(Path(str(name)).name if Path(str(name)).exists() else name)
