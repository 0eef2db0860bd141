"""Builds the model of the embedded demo task: `python scripts/make_demo.py` (three minutes on two cores).

Writes a byte-level BPE tokenizer and a two-layer GPT-2 into lmrl/data/demo. The model is trained on the demo corpus
*as hurried annotators would have written it*: half of the time it forgets the season, the sight, or whether dogs may
come; now and then it writes a wrong value or rambles. So the model writes fluently, but leaves things out, like a real
model that was fine-tuned on real data; that leaves work for a reward, which is measured against the clean references.
"""

import argparse
import math
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from lmrl.data import demo_model_path, demo_rows
from lmrl.data.demo import SLOTS, describe

EOS, PAD = "<|endoftext|>", "<|pad|>"
BATCH = 32

# The faults of the annotators: what they forget most is what comes last in a record.
FORGOTTEN = {"trail": 0.0, "area": 0.1, "length": 0.15, "climb": 0.15, "season": 0.5, "see": 0.5, "dogs": 0.6}
ALTERED = 0.15
RAMBLED = 0.15
RAMBLES = (
    "I went there once.",
    "My friend likes it a lot.",
    "What more could you want.",
    "It is a nice walk.",
    "So that is that.",
)


def parse() -> argparse.Namespace:
    """Returns the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=demo_model_path(), help="folder to write (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the noisy corpus (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--vocab", type=int, default=640, help="entries of the tokenizer (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of noise, weights and order (default: %(default)s)")
    return parser.parse_args()


def noisy_reference(mr: str, rng: random.Random) -> str:
    """
    Returns a text for a record as a hurried annotator would give it.

    Faults must be the habit and not the exception: were every fault rare, the likeliest text would be a right one, and
    greedy decoding, which finds it, could hardly be improved on.

    Args:
        mr (`str`):
            The record, as the prompt has it.
        rng (`random.Random`):
            Chooses the faults.
    """
    record = dict(part.split("[") for part in mr.removesuffix("]").split("] "))
    record = {slot: value for slot, value in record.items() if rng.random() >= FORGOTTEN[slot]}
    if rng.random() < ALTERED and len(record) > 1:
        slot = rng.choice([slot for slot in record if slot != "trail"])
        record[slot] = rng.choice([value for value in SLOTS[slot] if value != record[slot]])
    text = describe(record, rng)
    return f"{text} {rng.choice(RAMBLES)}" if rng.random() < RAMBLED and len(record) < 5 else text


def noisy_pairs(seed: int) -> list[tuple[str, str]]:
    """Returns prompt and completion of the noisy corpus."""
    rng = random.Random(seed)
    return [
        (row["prompt"], " " + noisy_reference(row["mr"], rng)) for row in demo_rows("train") for _ in row["references"]
    ]


def build_tokenizer(pairs: list[tuple[str, str]], vocab: int) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE: no text is unknown to it."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[EOS, PAD], initial_alphabet=alphabet, show_progress=False
    )
    # On the clean texts too: words that annotators forget must not fall apart into letters.
    clean = (" " + text for row in demo_rows("train") for text in row["references"])
    bpe.train_from_iterator([*(prompt + completion for prompt, completion in pairs), *clean], trainer)
    # A pad token of its own: with pad = eos, the end of a completion is easily taken for padding and not learnt.
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=EOS, eos_token=EOS, pad_token=PAD, padding_side="left", model_max_length=128
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Returns an untrained GPT-2 of two layers of 128, with the dropout of 0.1 that GPT-2 has."""
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids["pad_token_id"] = tokenizer.pad_token_id
    sizes = {"vocab_size": len(tokenizer), "n_positions": 128, "n_embd": 128, "n_layer": 2, "n_head": 4}
    # The function that GPT-2's "gelu_new" spells out, fused: a third less time for a step on a CPU.
    model = GPT2LMHeadModel(GPT2Config(activation_function="gelu_pytorch_tanh", **sizes, **ids))
    model.generation_config = GenerationConfig(**ids)
    return model


def batch_of(
    pairs: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Returns a batch, padded on the right, and its labels: the completion and its end alone."""
    prompts = [tokenizer(prompt)["input_ids"] for prompt, _ in pairs]
    completions = [[*tokenizer(completion)["input_ids"], tokenizer.eos_token_id] for _, completion in pairs]
    length = max(len(prompt) + len(text) for prompt, text in zip(prompts, completions, strict=True))
    ids, labels, mask = [], [], []
    for prompt, text in zip(prompts, completions, strict=True):
        padding = length - len(prompt) - len(text)
        ids.append(prompt + text + [tokenizer.pad_token_id] * padding)
        labels.append([-100] * len(prompt) + text + [-100] * padding)
        mask.append([1] * (length - padding) + [0] * padding)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}, torch.tensor(labels)


def train(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]], args: argparse.Namespace
) -> None:
    """Trains the model in place: AdamW, a short warm-up, then a cosine to zero."""
    rng = random.Random(args.seed)
    steps = args.epochs * (len(pairs) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    model.train()
    order: list[tuple[str, str]] = []
    for step in range(steps):
        if len(order) < BATCH:
            order = rng.sample(pairs, len(pairs))
        batch, order = order[:BATCH], order[BATCH:]
        inputs, labels = batch_of(batch, tokenizer)
        logits = model(**inputs).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)


def main() -> None:
    """Builds the tokenizer and the model, and writes both."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    pairs = noisy_pairs(args.seed)
    tokenizer = build_tokenizer(pairs, args.vocab)
    model = build_model(tokenizer)
    print(f"{len(pairs)} pairs, {model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    train(model, tokenizer, pairs, args)
    model.eval().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    for file in args.out.iterdir():
        file.chmod(0o644)  # safetensors makes files that only their owner can read, also once they are installed
    print(f"written to {args.out}: {sum(file.stat().st_size for file in args.out.iterdir()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
