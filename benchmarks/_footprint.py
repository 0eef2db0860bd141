"""The child process of memory.py: it trains one variant, and prints its peak memory."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from _common import Settings
from _measure import DEVICE, peak_memory
from _models import make_model, random_prompts
from memory import VARIANTS, Variant
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}


def make_models(settings: Settings) -> None:
    """Writes a policy, a reward model of its size, and one that is an adapter on that, all with random weights."""
    from peft import LoraConfig, get_peft_model

    make_model(settings)
    model = AutoModelForSequenceClassification.from_pretrained(settings.folder, num_labels=1)
    for name in ("reward_model", "reward_adapter"):
        if name == "reward_adapter":
            model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", **LORA))
        model.save_pretrained(f"{settings.folder}/{name}")
        AutoTokenizer.from_pretrained(settings.folder).save_pretrained(f"{settings.folder}/{name}")


def make_trainer(variant: Variant, settings: Settings) -> Any:
    """Returns a PPO trainer with the models of a variant."""
    from datasets import Dataset
    from peft import LoraConfig

    from lmrl.models import load_model
    from lmrl.rewards import RewardModel
    from lmrl.trainers import PPOConfig, PPOTrainer

    loading = {}
    if variant.four_bits:
        loading["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="float32"
        )
    args = PPOConfig(
        output_dir=f"{settings.folder}/run",
        max_steps=settings.steps,
        per_device_train_batch_size=settings.prompts,
        gradient_accumulation_steps=1,
        max_completion_length=settings.new_tokens,
        num_iterations=settings.steps,
        critic=variant.critic,
        reference_model_name_or_path=None if variant.reference_shared else settings.folder,
        bf16=False,
        use_cpu=DEVICE.type == "cpu",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    rows = [[f"t{token}" for token in row] for row in random_prompts(settings, 4 * settings.prompts)]
    return PPOTrainer(
        load_model(settings.folder, **loading),
        RewardModel(f"{settings.folder}/{variant.reward}", quantized_base=variant.four_bits),
        args,
        Dataset.from_dict({"prompt": [" ".join([*row, ""]) for row in rows]}),  # the completion follows the space
        processing_class=AutoTokenizer.from_pretrained(settings.folder),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA) if variant.lora else None,
    )


def reset_peak() -> None:
    """Resets the peak, which may be from loading the models; where that is not possible, the old peak counts."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def measure(variant: Variant, settings: Settings) -> dict[str, Any]:
    """Returns the peaks in bytes, less the memory of the imports, and the number of trained parameters."""
    import lmrl.models
    import lmrl.trainers  # noqa: F401

    imported = 0 if DEVICE.type == "cuda" else peak_memory()
    trainer = make_trainer(variant, settings)
    start = peak_memory()
    reset_peak()
    trainer.train()
    training = peak_memory()
    weights = list(trainer.model.parameters())
    return {
        "training": training - imported,
        "with_loading": max(start, training) - imported,
        "trained": sum(weight.numel() for weight in weights if weight.requires_grad),
        "reward": trainer.state.log_history[0]["reward"],
        "kl": trainer.state.log_history[0]["kl"],
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU",
    }


def main() -> None:
    name = sys.argv[1]
    settings = Settings(**json.loads(sys.argv[2]))
    torch.set_num_threads(settings.threads)
    if name == "models":
        make_models(settings)
        print("{}")
    else:
        print(json.dumps(measure(VARIANTS[name], settings)))


if __name__ == "__main__":
    main()
