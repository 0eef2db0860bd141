"""Characters before each token, against decoding every beginning of the text."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lmrl.progress import PrefixFinder

TEXTS = ["The cat sat.", "  two  spaces, and\na line", "naïve café, 猫が座った 🙂🙂 end", "don't -- stop!", ""]


def byte_level() -> PreTrainedTokenizerFast:
    """Returns a tokenizer of bytes, as GPT-2's: most characters beyond ASCII are several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<eos>"])
    tokenizer.train_from_iterator(["the cat sat and the cat sat"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def word_pieces() -> PreTrainedTokenizerFast:
    """Returns a tokenizer of word pieces, as BERT's: its decoder joins them, and puts spaces between words."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]", "<eos>"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="[UNK]")


def with_spaces_in_front() -> PreTrainedTokenizerFast:
    """Returns a tokenizer as Llama 2's: the space of the first word is not part of the text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Metaspace()])
    bytes_of_256 = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<unk>", "<eos>", *bytes_of_256])
    tokenizer.train_from_iterator(["the cat sat and the cat sat"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>")


def shared(text: str, beginning: str) -> int:
    """Returns how many characters two texts share from the left."""
    unlike = [place for place, (a, b) in enumerate(zip(text, beginning, strict=False)) if a != b]
    return min([*unlike, len(text), len(beginning)])


@pytest.mark.parametrize("make_tokenizer", [byte_level, word_pieces, with_spaces_in_front])
def test_ends_are_those_of_every_beginning_decoded(make_tokenizer: type) -> None:
    """All texts in one batch, each with an EOS; a character of which some bytes are missing is not there yet."""
    tokenizer = make_tokenizer()
    rows = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in TEXTS]
    for prefixes, row in zip(PrefixFinder(tokenizer)(rows), rows, strict=True):
        text = prefixes.text
        assert text == tokenizer.decode(row, skip_special_tokens=True)
        beginnings = [tokenizer.decode(row[:place], skip_special_tokens=True) for place in range(len(row))]
        assert prefixes.ends == [shared(text, each.rstrip("\ufffd")) for each in beginnings]


def test_the_text_of_a_completion_may_hold_broken_characters() -> None:
    tokenizer = byte_level()
    first_byte_of_many = tokenizer("猫").input_ids[:1]
    ids = [*tokenizer("a").input_ids, *first_byte_of_many, *tokenizer("b").input_ids]
    [prefixes] = PrefixFinder(tokenizer)([ids])
    assert prefixes.text == "a\ufffdb"
    assert prefixes.ends == [0, 1, 1]
    assert list(prefixes) == ["", "a", "a"]
