"""The tokens of BLEU are those of sacrebleu's 13a, on any text."""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU as SacreBLEU

from lmrl.rewards.grams import SacrebleuTokens

TRICKY = st.text(st.sampled_from("ab12.,-'_~&<>;\" \n\t\x0b\x1c\u3000é²٣"), max_size=12)


@settings(max_examples=300)
@given(text=TRICKY | st.text(max_size=20))
@example(text="1,000.50 a..5 5--6 x-1-y <skipped> &quot; end-\nof-line")
def test_any_text_has_the_tokens_of_13a(text):
    tokenizer = SacreBLEU(tokenize="13a").tokenizer
    assert SacrebleuTokens("13a", lowercase=False)(text) == tokenizer(text.rstrip()).split()


def test_all_short_texts_of_digits_stops_and_hyphens_have_the_tokens_of_13a():
    """Five characters are enough for any two of the substitutions to interfere."""
    tokenizer = SacreBLEU(tokenize="13a").tokenizer
    tokens = SacrebleuTokens("13a", lowercase=False)
    texts = ["".join(text) for length in range(6) for text in itertools.product("a1.- '", repeat=length)]
    assert [tokens(text) for text in texts] == [tokenizer(text).split() for text in texts]


@pytest.mark.parametrize("name", ["intl", "char", "zh", "none"])
def test_other_tokenizers_are_those_of_sacrebleu(name):
    tokenizer = SacreBLEU(tokenize=name).tokenizer
    text = "A 1.5-km walk, 我喜欢猫。 "
    assert SacrebleuTokens(name, lowercase=False)(text) == tokenizer(text.rstrip()).split()
