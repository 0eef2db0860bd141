"""Notes on likely problems of a run, found before it begins."""

from typing import Any

from datasets import Dataset

from lmrl.precision import BF16_PAYS, bf16_speedup

_CHECKED_ROWS = 100  # rows whose references are compared with the length of completions


def run_notes(trainer: Any, train_rows: Dataset) -> list[str]:
    """Returns the likely problems of a run, a sentence for each."""
    notes = [precision_note(trainer.args.device.type, trainer.args.bf16, weights_dtype(trainer.model))]
    if hasattr(trainer, "reference"):
        notes.append(_turn_note(trainer, train_rows))
        notes.append(_length_note(trainer, train_rows))
    elif "references" in (train_rows.column_names or ()) and trainer.processing_class.eos_token_id is None:
        notes.append("The tokenizer has no EOS, so the model does not learn to end its completions.")
    return [note for note in notes if note]


def precision_note(device: str, bf16: bool, dtype: str, speedup: float | None = None) -> str:
    """
    Returns a sentence if a CPU that computes in float32 would be faster in bfloat16, else an empty text. `speedup` is
    how many times as fast; by default it is measured, which takes some milliseconds.
    """
    if device != "cpu" or bf16 or dtype != "float32":
        return ""
    speedup = bf16_speedup() if speedup is None else speedup
    if speedup < BF16_PAYS:
        return ""
    return f"This CPU multiplies bfloat16 {speedup:.1f} times as fast as float32: try --bf16 true."


def _turn_note(trainer: Any, rows: Dataset) -> str:
    """Returns a sentence if the chat template ends a turn with a token that does not end completions."""
    row: dict[str, Any] = next(iter(rows), {})
    prompt = row.get("prompt", "")
    if isinstance(prompt, str):
        return ""
    tokenizer = trainer.processing_class
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        ids = tokenizer.apply_chat_template(turn, tokenize=True, return_dict=True)["input_ids"]
    except Exception:  # a template is a program, and may accept only other messages
        return ""
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    ends = [token for token in ids if token in special][-1:]
    if not ends or ends[0] in trainer.eos_token_ids:
        return ""
    return (
        f"The chat template ends a turn with {tokenizer.convert_ids_to_tokens(ends[0])}, which is no EOS of the "
        "model: completions would not end. Add it to eos_token_id of the generation config."
    )


def _length_note(trainer: Any, rows: Dataset) -> str:
    """Returns a sentence if most references are as long as the longest completion, or longer."""
    limit = trainer.args.max_completion_length
    first = rows.select(range(min(len(rows), _CHECKED_ROWS))) if hasattr(rows, "select") else ()
    texts = [str(text) for row in first for text in (row.get("references") or [])[:1] if text]
    tokens = trainer.processing_class(text=texts)["input_ids"] if texts else []
    longer = sum(len(ids) >= limit for ids in tokens)
    if 2 * longer <= len(tokens):
        return ""
    return (
        f"{longer} of the first {len(tokens)} references have {limit} tokens or more, and completions at most "
        f"{limit}: raise --max_completion_length."
    )


def weights_dtype(model: Any) -> str:
    """Returns the precision of the weights of a model that is not quantized."""
    return str(getattr(model, "dtype", "float32")).removeprefix("torch.")
