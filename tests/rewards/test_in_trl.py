"""The same objects, unchanged, as `reward_funcs` of TRL's own trainers."""

import math

import pytest
from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from lmrl.rewards import BLEU, Length, Rouge, Weighted

TRAINERS = [(RLOOTrainer, RLOOConfig), (GRPOTrainer, GRPOConfig)]


def rows(chat: bool) -> Dataset:
    texts = ["a b", "c d e", "f", "g h"]
    prompts = [[{"role": "user", "content": text}] for text in texts] if chat else texts
    return Dataset.from_dict({"prompt": prompts, "references": [[f"{text} x y", f"{text} z"] for text in texts]})


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(("trainer_class", "config_class"), TRAINERS)
def test_rewards_train_unchanged_in_trl(trainer_class, config_class, chat, llama_path, tmp_path):
    bleu = BLEU()
    total = Weighted({Rouge("rougeL"): 1.0, Length(6): 0.5}, name="total")
    args = config_class(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        max_steps=2,
        save_strategy="no",
        logging_steps=1,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=6,
        disable_tqdm=True,
    )
    trainer = trainer_class(
        model=llama_path,
        reward_funcs=[bleu, total],
        args=args,
        train_dataset=rows(chat),
        processing_class=AutoTokenizer.from_pretrained(llama_path),
    )
    trainer.train()
    steps = [log for log in trainer.state.log_history if "reward" in log]
    assert len(steps) == 2
    for log in steps:
        assert 0 <= log["rewards/bleu/mean"] <= 1
        assert 0 <= log["rewards/total/mean"] <= 1.5
        parts = log["total/rougeL"] + 0.5 * log["total/length"]
        assert math.isclose(log["rewards/total/mean"], parts, rel_tol=1e-5)
        assert math.isclose(log["reward"], log["rewards/bleu/mean"] + parts, rel_tol=1e-5)
