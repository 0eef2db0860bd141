"""The model card: its metadata, its sections, and the escaping of what users write."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from lmrl.evaluation import Completion, Evaluation, write_card
from lmrl.evaluation.scores import Score, mean_score

CONFIG = {
    "model_name_or_path": "someone/gpt2",
    "dataset_name": "someone/records",
    "reward_weights": [0.7, 0.3],
    "beta": 0.05,
    "baseline": "leave_one_out",
    "generation_batch_size": 32,
    "temperature": 1.0,
    "kl_target": None,
    "push_to_hub_token": "secret",
}
LOGS = {"after": [{"step": 1, "kl_per_sequence": 0.0}, {"step": 40, "kl_per_sequence": 3.25, "reward": 1.0}]}
ROWS = [{"prompt": f"number {n} ->"} for n in range(4)]


def measured(bleu: list[float], length: float = 20.0) -> Evaluation:
    scores = {
        "bleu": mean_score("bleu", "tok:13a|case:mixed", bleu, True),
        "chrf": mean_score("chrf", "nc:6", bleu, True),
        "reward/bleu": mean_score("reward/bleu", "bleu|smooth:exp", [value / 100 for value in bleu], True),
        "reward/polite": mean_score("reward/polite", "polite", [0.5] * 4, True),
        "distinct1": Score("distinct1", 0.25, "n:1", None, True),
        "length": mean_score("length", "unit:tokens", [length] * 12, None),  # enough rows for a star
        "kl": mean_score("kl", "reference:/somewhere/private/start|unit:nats", [0.0] * 4, None),
    }
    texts = [Completion(row, 0, "a text", 3, True) for row in range(4)]
    return Evaluation(texts, scores, {"max_new_tokens": 12, "do_sample": False}, [str(row) for row in range(4)])


def one_score(values: list[float]) -> Evaluation:
    texts = [Completion(row, 0, "a text", 3, True) for row in range(len(values))]
    return Evaluation(texts, {"bleu": mean_score("bleu", "tok:13a", values, True)}, {"max_new_tokens": 12})


def written(folder: Path, **changes: object) -> str:
    """Returns the card of a run whose BLEU rises from 50 to 60, in texts twice as long."""
    arguments = {
        "algorithm": "REINFORCE",
        "citation": "@article{williams1992simple,\n  year = {1992}\n}",
        "settings": {"baseline": "leave_one_out", "epsilon": None, "normalize_advantages": False},
        "evaluations": {"before": measured([50.0] * 4), "after": measured([59.0, 60.0, 60.0, 61.0], 40.0)},
        "rows": ROWS,
        "logs": LOGS,
        "config": CONFIG,
        "rewarded": ["bleu", "polite"],
        "start": "[someone/gpt2](https://huggingface.co/someone/gpt2)",
        "weights": "All weights were trained: `dtype=float32`",
        "base_model": "someone/gpt2",
    }
    card = write_card(folder, **{**arguments, **changes})
    assert (folder / "README.md").read_text(encoding="utf-8") == card
    return card


def test_the_metadata_have_the_base_model_the_data_and_the_scores(tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    written(folder)
    data = ModelCard.load(folder / "README.md").data
    assert (data.base_model, data.datasets, data.library_name) == ("someone/gpt2", ["someone/records"], "transformers")
    assert (data.pipeline_tag, data.license, data.model_name) == ("text-generation", None, "tuned")
    assert data.tags == ["trl", "lmrl", "reinforce", "reinforcement-learning"]
    found = [(result.metric_type, result.metric_value, result.dataset_type) for result in data.eval_results]
    assert found == [("bleu", 60.0, "someone/records"), ("chrf", 60.0, "someone/records")]


def test_the_card_has_scores_warnings_settings_and_citations(tmp_path: Path) -> None:
    card = written(tmp_path / "tuned")
    assert (
        "[someone/gpt2](https://huggingface.co/someone/gpt2), fine-tuned by reinforcement learning (REINFORCE)" in card
    )
    scores = "50.00 [50.00, 50.00] | 60.00 [59.25, 60.75] | +10.00 [+9.25, +10.75]"
    assert f"| `bleu` (trained on) (exploratory) | {scores} |  |" in card
    assert "| `reward/polite` (trained on) | 0.5000 [0.5000, 0.5000] | 0.5000 [0.5000, 0.5000] | +0.00 [" in card
    assert "| `bleu` | 0.7 | `bleu\\|smooth:exp` |" in card and "| `polite` | 0.3 | `polite` |" in card
    assert "- after: completions are 100 % longer (20.00 → 40.00 tokens)." in card
    assert "- REINFORCE: `baseline=leave_one_out`" in card
    assert "- 40 optimizer steps: `generation_batch_size=32`" in card
    start = "the model that this training started from"
    assert f"- KL penalty to {start}: `beta=0.05`. It ended at 3.25 nats per sampled completion." in card
    assert '"max_new_tokens": 12' in card and "transformers 5." in card and "williams1992simple" in card
    assert "secret" not in card and "None" not in card and "normalize_advantages" not in card


@pytest.mark.parametrize(("rows", "star"), [(4, ""), (8, r"\*")])  # p = 2 / 2^4 and 2 / 2^8
def test_a_star_marks_a_corrected_p_value_below_5_percent(rows: int, star: str, tmp_path: Path) -> None:
    evaluations = {"before": one_score([50.0] * rows), "after": one_score([60.0] * rows)}
    card = written(tmp_path / "tuned", evaluations=evaluations)
    assert f"| 60.00 [60.00, 60.00] | +10.00 [+10.00, +10.00]{star} | 0." in card
    assert r"\* marks p below 0.05" in card


def test_an_algorithm_that_lmrl_does_not_have_gets_a_card(tmp_path: Path) -> None:
    def my_baseline() -> None: ...

    settings = {"baseline": my_baseline, "epsilon": 0.0, "group_size": 8}
    lora = {"weights": "LoRA on `base`: `r=8`", "is_adapter": True}
    card = written(tmp_path / "tuned", algorithm="GRPO", citation=None, settings=settings, **lora)
    assert "fine-tuned by reinforcement learning (GRPO)" in card
    assert "- GRPO: `baseline=my_baseline`, `epsilon=0.0`, `group_size=8`\n" in card
    assert "- LoRA on `base`: `r=8`" in card
    assert card.count("@") == 1 and "@software{vonwerra2020trl," in card
    data = ModelCard.load(tmp_path / "tuned" / "README.md").data
    assert data.library_name == "peft" and data.tags == ["trl", "lmrl", "grpo", "reinforcement-learning", "lora"]
    assert "- GRPO\n" in written(tmp_path / "tuned", algorithm="GRPO", settings={})


def test_local_paths_are_cut_to_their_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher").mkdir()
    (tmp_path / "train.jsonl").write_text("")
    private = {
        "dataset_name": str(tmp_path / "train.jsonl"),
        "reference_model_name_or_path": str(tmp_path / "teacher"),
    }
    card = written(tmp_path / "tuned", config={**CONFIG, **private})
    assert str(tmp_path) not in card and "/somewhere/private" not in card
    for named in ("KL penalty to `teacher`", "`train.jsonl`", "`reference:start\\|unit:nats`"):
        assert named in card
    assert 'model="tuned"' in card
    data = ModelCard.load(tmp_path / "tuned" / "README.md").data
    assert data.datasets is None
    assert {result.dataset_type for result in data.eval_results} == {"train"}
    assert 'model="someone/tuned"' in written(tmp_path / "tuned", config={**CONFIG, "hub_model_id": "someone/tuned"})


def test_markup_in_the_text_of_users_is_escaped(tmp_path: Path) -> None:
    evil = "a|b `c` <script>\n---\n# d ``e`"
    scores = {name: measured([50.0] * 4) for name in ("before", "after")}
    for evaluation in scores.values():
        evaluation.scores[f"reward/{evil}"] = mean_score(f"reward/{evil}", evil, [1.0] * 4, True)
    prompt = '```\n"""\n---\nlicense: mit\n<b>|'
    card = written(
        tmp_path / "tuned",
        evaluations=scores,
        rows=[{"prompt": prompt}],
        rewarded=["bleu", evil],
        config={**CONFIG, "prompt_template": evil, "dataset_name": "my rows: #1", "system_prompt": "---"},
    )
    data = ModelCard.load(tmp_path / "tuned" / "README.md").data
    assert data.license is None and data.eval_results[0].dataset_name == "my rows: #1"
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(card.split("\n---\n\n", 1)[1])
    kinds = [inline.type for token in tokens for inline in (token.children or [])] + [token.type for token in tokens]
    assert "html_inline" not in kinds and "html_block" not in kinds and "hr" not in kinds
    heads = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"]
    assert heads == [
        *("tuned", "Use", "Scores", "Warnings", "Training", "Data", "Rewards", "Signatures of the scores"),
        *("Versions", "Citations"),
    ]
    rows = [place for place, token in enumerate(tokens) if token.type in ("tr_open", "tr_close")]
    cells = [
        sum(token.type in ("td_open", "th_open") for token in tokens[start:end])
        for start, end in zip(rows[::2], rows[1::2], strict=True)
    ]
    assert cells == [5] * 9 + [3] * 3 + [2] * 9
    (example,) = [token.content for token in tokens if token.type == "fence" and token.info == "python"]
    names: dict[str, object] = {}
    exec("\n".join(line for line in example.splitlines() if line.startswith("prompt =")), names)
    assert names["prompt"] == prompt
