"""Tiny models in folders of this process, for cases.py."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tiny import WORDS, tiny_gpt2, tiny_llama, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, BertTokenizer

from lmrl import rewards
from lmrl.models import load_model

TEMPORARY = tempfile.TemporaryDirectory()
FOLDER = Path(TEMPORARY.name)
LLAMA = tiny_llama(FOLDER / "llama")
GPT2 = tiny_gpt2(FOLDER / "gpt2")


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options})


def adapted() -> Any:
    """Returns a policy with a trained adapter, to be trained further."""
    folder = FOLDER / "adapter"
    get_peft_model(load_model(LLAMA), lora(init_lora_weights=False)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return load_model(folder, trainable=True)


def scorer(name: str, labels: int = 1, adapter: bool = False) -> str:
    """Returns the folder of a classifier or reward model on the policy's base, full or as an adapter."""
    model = AutoModelForSequenceClassification.from_pretrained(LLAMA, num_labels=labels)
    torch.nn.init.normal_(model.score.weight)
    if adapter:
        model = get_peft_model(model, lora(task_type="SEQ_CLS", init_lora_weights=False))
    model.save_pretrained(FOLDER / name)
    tiny_tokenizer().save_pretrained(FOLDER / name)
    return str(FOLDER / name)


def bert() -> str:
    """Returns the folder of a tiny encoder that knows the policy's words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(word for word in WORDS if not word.startswith("<"))]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(FOLDER / "bert")
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(FOLDER / "bert")
    return str(FOLDER / "bert")


def classifier(output: str) -> rewards.Classifier:
    return rewards.Classifier(scorer("classifier", labels=2), label=1, output=output, use_prompt=True)
