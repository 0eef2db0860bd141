"""The model card of a trained model."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from lmrl.display.curves import Log, curve
from lmrl.display.wording import setting_text
from lmrl.version import package_versions

from ..comparison import Compared
from ..evaluate import Evaluation
from ..roles import compare_evaluations, is_quality, is_reward, is_rewarded, metrics_of, split_by_role
from ..rows import Rows, data_signature
from ..scores import Score
from .findings import find_warnings
from .markdown import code
from .templating import render

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def write_card(
    output_dir: str | os.PathLike[str],
    evaluations: Mapping[str, Evaluation],
    rows: Rows,
    *,
    algorithm: str,
    citation: str | None,
    settings: Mapping[str, object],
    logs: Mapping[str, Log],
    config: Mapping[str, Any],
    rewarded: Sequence[str],
    start: str,
    weights: str,
    base_model: str | None = None,
    is_adapter: bool = False,
    compared: Compared | None = None,
    template: str = "card.md",
    task_type: str = "text-generation",
    tags: Sequence[str] = ("reinforcement-learning",),
) -> str:
    """
    Writes the model card of a trained model as `README.md`, and returns it.

    It has the Hub's metadata ([`~huggingface_hub.ModelCardData`], with the last scores as `model-index`), except for
    the licence, which only the author knows. Of local paths only the last part is written.

    Args:
        output_dir (`str` or `os.PathLike`):
            Folder of the model.
        evaluations (`dict` of [`Evaluation`]):
            Evaluations of the model before and after training, in this order.
        rows, rewarded, compared:
            As for [`write_page`]; the first prompt is used in the example of how to use the model.
        algorithm (`str`), citation (`str`, *optional*):
            Name of the algorithm and BibTeX of its papers (`trainer.name`, `trainer.citation`).
        settings (`dict`):
            Settings of the algorithm worth reporting, by name (`trainer.reported_settings`); those that are `None` or
            `False` are left out.
        logs (`dict` of log histories):
            Log of the training run, by the label of the trained model.
        config (`dict`):
            All settings of the run, by the names of the recipes' options.
        start (`str`), weights (`str`), base_model (`str`, *optional*), is_adapter (`bool`):
            The model that training started from and the weights that were trained, as Markdown; the Hub's model from
            which all began; whether an adapter was saved ([`~lmrl.experiment.lineage.lineage_of`]).
        template (`str`), task_type (`str`), tags (list of `str`):
            Template of the card in `templates/`, and the task and tags of its metadata.
    """
    if compared is None:
        compared = compare_evaluations(evaluations, rewarded)
    baseline, base = next(iter(evaluations.items()))
    *_, (label, last) = evaluations.items()
    log = logs[label]
    folder = Path(output_dir)
    model = str(config.get("hub_model_id") or (folder.resolve().name if folder.is_absolute() else folder))
    name = Path(str(config.get("hub_model_id") or folder.resolve())).name
    primary, exploratory = split_by_role(metrics_of(evaluations), compared)
    tags = ["trl", "lmrl", algorithm.lower().replace(" ", "-"), *tags, *(["lora"] if is_adapter else [])]
    metadata = ModelCardData(
        model_name=name,
        base_model=base_model,
        library_name="peft" if is_adapter else "transformers",
        tags=tags,
        **_metadata(task_type, config, last.scores),
    )
    text = render(
        template,
        card_data=metadata.to_yaml(),
        name=name,
        algorithm=algorithm,
        citation=citation,
        settings=options_text(settings, *settings),
        start=start,
        trained=weights,
        model=json.dumps(model),
        prompt=json.dumps(rows[0]["prompt"], ensure_ascii=False),
        baseline=baseline,
        base=base,
        last=last,
        evaluations=evaluations,
        compared=compared,
        metrics=[*primary, *exploratory],
        exploratory=exploratory,
        is_rewarded=is_rewarded,
        prompts=base.num_prompts,
        data=json.dumps(data_signature(base.row_ids)),
        decoding=json.dumps({key: value for key, value in base.decoding.items() if key != "batch_size"}),
        findings=find_warnings(evaluations, logs=logs, rewarded=rewarded, compared=compared),
        steps=max((int(row.get("step", 0)) for row in log), default=0),
        final_kl=next((value for _, value in reversed(curve(log, "kl_per_sequence"))), None),
        config=config,
        options=lambda *names: options_text(config, *names),
        rewarded=rewarded,
        weights=config.get("reward_weights") or [1.0] * len(rewarded),
        versions=package_versions(),
        local_name=local_name,
        signature=_signature,
    )
    ModelCard(text).save(folder / "README.md")
    return text


def hub_id(name: object) -> str | None:
    """Returns the name of a model or data set if it may be an id on the Hub, `None` for a local folder or file."""
    text = str(name)
    return text if name and _HUB_ID.fullmatch(text) and not Path(text).exists() else None


def _metadata(task_type: str, config: Mapping[str, Any], scores: Mapping[str, Score]) -> dict[str, Any]:
    """Returns the metadata about the data and the scores."""
    dataset = str(config.get("eval_dataset_name") or config.get("dataset_name"))
    identifier = hub_id(dataset) or re.sub(r"[^\w.-]+", "-", Path(dataset).stem)
    results = [
        EvalResult(
            task_type=task_type,
            dataset_type=identifier,
            dataset_name=Path(dataset).name,
            metric_type=key,
            metric_value=round(score.value, 4),
        )
        for key, score in scores.items()
        if is_quality(score) and math.isfinite(score.value) and not is_reward(key)
    ]
    trained_on = hub_id(config.get("dataset_name"))
    datasets = [trained_on] if trained_on and trained_on != "demo" else None
    return {"datasets": datasets, "eval_results": results or None, "pipeline_tag": task_type}


def _signature(score: Score) -> str:
    """Returns the signature as code, with local paths cut to their last part."""
    return code(re.sub(r"(?<=:)(?:[A-Za-z]:\\|/)[^|]*[/\\]", "", score.signature))


def options_text(config: Mapping[str, object], *names: str) -> str:
    """Returns the options that are set, as code: `name=value`. `None` and `False` count as not set, 0 as set."""
    values = {name: config.get(name) for name in names}
    shown = {name: value for name, value in values.items() if value is not None and value is not False}
    return ", ".join(code(f"{name}={setting_text(value)}") for name, value in shown.items())


def local_name(name: object) -> str:
    """Returns the name of a model or data set as code; of a local path only the last part."""
    return code(Path(str(name)).name if Path(str(name)).exists() else name)
