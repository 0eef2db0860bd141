"""Steps that the supervised recipes share: rows that fit the model, a quick step, a new head."""

import logging
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmrl.experiment.policies import model_name, model_source
from lmrl.models import check_lora_targets, context_length, fuse_activations
from lmrl.settings import follow_lora
from lmrl.supervised.classifiers import load_trainable_classifier
from lmrl.supervised.forward import add_supervised_forward
from lmrl.utils import check_token_ids

logger = logging.getLogger(__name__)


def smallest_limit(model: PreTrainedModel, *limits: int | None) -> int | None:
    """Returns the smallest of a model's context and other limits in tokens; `None` if there is no limit."""
    return min((limit for limit in (context_length(model), *limits) if limit is not None), default=None)


def check_tokenized(trainer: Any, rows: Dataset) -> None:
    """
    Warns of rows that TRL cut or left out, because they have more tokens than `max_length`.

    Args:
        trainer ([`~trl.SFTTrainer`] or [`~trl.RewardTrainer`]):
            Trainer with its tokenized rows, which are not packed.
        rows (`datasets.Dataset`):
            Training rows as they were given to it.

    Raises:
        ValueError: If no row is left, or one has a token that the model does not have.
    """
    kept = trainer.train_dataset
    limit = trainer.args.max_length
    texts = [
        ids for name in ("input_ids", "chosen_ids", "rejected_ids") if name in kept.column_names for ids in kept[name]
    ]
    check_token_ids(texts, trainer.model.config.get_text_config().vocab_size)
    # An EOS at the end of a row of just `max_length` tokens shows that nothing was cut.
    cut = sum(len(ids) == limit and ids[-1] != trainer.processing_class.eos_token_id for ids in texts)
    dropped = len(rows) - len(kept)
    found = (
        f"`max_length` is {limit} tokens: of {len(rows)} rows {dropped} are left out and {cut} cut, as they are longer"
    )
    if not len(kept):
        raise ValueError(f"{found}. Raise it, or shorten the texts; the model's context is the limit.")
    if dropped or cut:
        logger.warning("%s. Raise it, or shorten the texts; the model's context is the limit.", found)


def prepare_step(trainer: Any, rows: Dataset) -> None:
    """Prepares an [`~trl.SFTTrainer`] that has not trained yet for quick steps, and checks its rows, if not packed."""
    if not trainer.args.packing:
        check_tokenized(trainer, rows)
    fuse_activations(trainer.model)
    add_supervised_forward(trainer.model)


def load_reward_model(model_args: Any, config: Any, pairs: Dataset) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    Returns a model with a new head of one score, and its tokenizer. The arguments are as for
    [`~lmrl.experiment.load_policy`]. A model from scratch takes its vocabulary from the pairs, rows with `prompt`,
    `chosen` and `rejected`.

    Raises:
        ValueError: If there is no such model.
    """
    texts = [str(row[column]) for row in pairs for column in ("prompt", "chosen", "rejected")]
    options = model_source(model_args, config) | model_args.loading(bf16=config.bf16)
    name = model_name(model_args)
    model, tokenizer = load_trainable_classifier(name, ["reward"], texts, with_adapter=model_args.use_peft, **options)
    if tokenizer.eos_token is None:  # an encoder's, such as BERT's: its texts end in a separator
        tokenizer.eos_token = tokenizer.sep_token
    if model_args.use_peft:
        check_lora_targets(model, model_args.lora_target_modules, model_args.lora_target_parameters)
        follow_lora(config)
    return model, tokenizer
