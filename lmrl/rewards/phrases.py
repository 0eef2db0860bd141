"""Rewards for what a text mentions: words, phrases and slot values."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lmrl.progress import Prefixes, Progress, found_so_far, phrase_pattern

from .base import Columns, Prompts, Scores
from .grams import stemmer_of
from .text import TextReward


def _phrases(what: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, (list, tuple)) and all(isinstance(phrase, str) and phrase.strip() for phrase in given):
        return tuple(given)
    raise ValueError(f"{what} must be a list of words or phrases, none of them empty, got {given!r}.")


_WORD = re.compile(r"\w+")
Stemmer: TypeAlias = str | Callable[[str], str] | None


class PhraseReward(TextReward):
    """
    Base of the rewards that look for phrases: the share of those wanted that occur, or 0 if a forbidden one does.

    Args:
        stemmer (`str` or `Callable`, *optional*):
            Makes a stem of each word, so that "walked" and "walks" are "walk": `"porter"` for English, a language of
            nltk's Snowball stemmers such as `"german"`, or a function of a word in lower case. By default words are
            compared as they are.
    """

    stemmer: Stemmer
    forbidden: Sequence[str] = ()
    whole_words: bool = True
    ignore_case: bool = True

    def __init__(self, name: str, columns: Sequence[str], signature: str):
        if self.stemmer is not None:
            _ = self._stem  # an unknown language is an error here, not in the first training step
            signature += f"|stem:{getattr(self.stemmer, '__name__', self.stemmer)}"
        super().__init__(name, columns, signature=signature)

    def wanted(self, columns: Columns, rows: int) -> list[list[Sequence[str]]]:
        """Returns the wanted items of each row; an item is a list of phrases of which at least one has to occur."""
        raise NotImplementedError(f"{type(self).__name__} must define `wanted`.")

    def scores(self, completions: list[str], prompts: Prompts, columns: Columns) -> Scores:
        """Returns for each text the share of the wanted items that occur, or 0 if a forbidden phrase does."""
        wanted = self.wanted(columns, len(completions))
        return [self._score(text, of_row) for text, of_row in zip(completions, wanted, strict=True)]

    def progress(self, *, prefixes: Sequence[Prefixes], **columns: Any) -> Progress:
        """Returns that share for each text so far. A forbidden phrase at its end may still become another word."""
        if self.stemmer is not None:
            return super().progress(prefixes=prefixes, **columns)
        wanted = self.wanted(self._checked(columns, len(prefixes)), len(prefixes))
        options = (self.whole_words, self.ignore_case)
        numbers = []
        for each, of_row in zip(prefixes, wanted, strict=True):
            is_forbidden = found_so_far(each, self.forbidden, *options)
            found = [found_so_far(each, any_of, *options) for any_of in of_row]
            shares = [sum(of_token) / len(of_token) for of_token in zip(*found, strict=True)]
            shares = shares or [float(bool(self.forbidden))] * len(each)
            numbers.append([[0.0 if bad else share] for bad, share in zip(is_forbidden, shares, strict=True)])
        return numbers

    def _score(self, text: str, wanted: list[Sequence[str]]) -> float | None:
        if not wanted and not self.forbidden:
            return None
        text = self._stemmed(text)
        if self._occurs(self.forbidden, text):
            return 0.0
        return sum(self._occurs(any_of, text) for any_of in wanted) / len(wanted) if wanted else 1.0

    def _occurs(self, any_of: Sequence[str], text: str) -> bool:
        options = (self.whole_words, self.ignore_case)
        return any(phrase_pattern(self._stemmed(phrase), *options).search(text) for phrase in any_of)

    @functools.cached_property
    def _stem(self) -> Callable[[str], str]:
        return stemmer_of(self.stemmer) if isinstance(self.stemmer, str) else self.stemmer or str

    def _stemmed(self, text: str) -> str:
        return text if self.stemmer is None else _WORD.sub(lambda word: self._stem(word[0].lower()), text)


@dataclass(eq=False, repr=False)
class Keywords(PhraseReward):
    """
    Returns the share of the required words and phrases that occur in the completion, or 0 if a forbidden one does.

    In [0, 1]. A row that requires nothing has 1 if no forbidden phrase occurs, or `None` if nothing is forbidden.

    Args:
        required (`list[str]`, *optional*, defaults to `()`):
            Words or phrases that every completion should have.
        forbidden (`list[str]`, *optional*, defaults to `()`):
            Words or phrases that no completion may have.
        column (`str`, *optional*):
            Dataset column with a list of further required words or phrases per row.
        whole_words (`bool`, *optional*, defaults to `True`):
            Whether "cat" has to stand alone and does not occur in "category".
        ignore_case (`bool`, *optional*, defaults to `True`):
            Whether case is ignored.
        stemmer:
            That of [`PhraseReward`]. As stems are of complete words in lower case, it needs `whole_words` and
            `ignore_case`.
    """

    required: Sequence[str] = ()
    forbidden: Sequence[str] = ()
    column: str | None = None
    whole_words: bool = True
    ignore_case: bool = True
    name: str = "keywords"
    stemmer: Stemmer = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.required = _phrases("`required`", self.required)
        self.forbidden = _phrases("`forbidden`", self.forbidden)
        if not (self.required or self.forbidden or self.column):
            raise ValueError("`required`, `forbidden` or `column` must be given, got none. Give words to look for.")
        if self.stemmer is not None and not (self.whole_words and self.ignore_case):
            raise ValueError("`whole_words` and `ignore_case` must be True with `stemmer`, got False. Leave one out.")
        signature = (
            f"keywords|required:{list(self.required)}|forbidden:{list(self.forbidden)}|column:{self.column}"
            f"|whole:{'yes' if self.whole_words else 'no'}|case:{'lc' if self.ignore_case else 'mixed'}"
        )
        super().__init__(self.name, (self.column,) if self.column else (), signature)

    def wanted(self, columns: Columns, rows: int) -> list[list[Sequence[str]]]:
        """Returns the required phrases of each row."""
        given = columns[self.column] if self.column else [()] * rows
        of_rows = [_phrases(f"Row {row} of {self.column!r}", phrases) for row, phrases in enumerate(given)]
        return [[(phrase,) for phrase in (*self.required, *phrases)] for phrases in of_rows]


_SLOT = re.compile(r"([^,()\[\]]+)\[([^\]]*)\]")


@dataclass(eq=False, repr=False)
class SlotCoverage(PhraseReward):
    """
    Returns the share of the values of a meaning representation that occur in the completion, in [0, 1].

    A value occurs as a complete phrase, in any case: `food[French]` is covered by "a french pub". `None` where the row
    has no slot to count. Values that a text expresses in other words, such as `familyFriendly[yes]`, are left out with
    `ignore` or spelled out with `aliases`. Content that a text adds to its meaning representation does not count.

    Args:
        column (`str`, *optional*, defaults to `"mr"`):
            Dataset column with, per row, a text such as `"name[The Vaults], food[French]"` (the form of "The E2E
            Dataset: New Challenges for End-to-End Generation", Novikova et al., 2017,
            https://aclanthology.org/W17-5525) or a mapping of slots to values. Slots of value `None` or `""` are left
            out.
        ignore (`list[str]`, *optional*, defaults to `()`):
            Slots that are not counted.
        aliases (`dict[str, dict[str, list[str]]]`, *optional*):
            Per slot and value the phrases of which one has to occur, in place of the value itself:
            `{"familyFriendly": {"no": ["not family friendly", "adult"]}}`.
        stemmer:
            That of [`PhraseReward`].

    Raises:
        ValueError: When called, for a row without slots in either form.
    """

    column: str = "mr"
    ignore: Sequence[str] = ()
    aliases: Mapping[str, Mapping[str, Sequence[str]]] | None = None
    name: str = "slot_coverage"
    stemmer: Stemmer = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.ignore = _phrases("`ignore`", self.ignore)
        self._aliases = {
            (slot, str(value)): _phrases(f"`aliases` of {slot}[{value}]", phrases)
            for slot, values in (self.aliases or {}).items()
            for value, phrases in values.items()
        }
        aliases = {f"{slot}[{value}]": list(phrases) for (slot, value), phrases in sorted(self._aliases.items())}
        signature = f"slot_coverage|column:{self.column}|ignore:{sorted(self.ignore)}|aliases:{aliases}"
        super().__init__(self.name, (self.column,), signature)

    def wanted(self, columns: Columns, rows: int) -> list[list[Sequence[str]]]:
        """Returns the values of each row, or their aliases."""
        of_rows = [self._values(row, given) for row, given in enumerate(columns[self.column])]
        return [[self._aliases.get(value, value[1:]) for value in values] for values in of_rows]

    def _values(self, row: int, given: Any) -> list[tuple[str, str]]:
        slots: Iterable[tuple[str, Any]] = _SLOT.findall(given) if isinstance(given, str) else ()
        if isinstance(given, Mapping):
            slots = given.items()
        is_nested = any(isinstance(value, (list, tuple, Mapping)) for _, value in slots)
        if is_nested or (not slots and given not in ("", {})):
            raise ValueError(
                f"The reward {self.__name__!r} needs 'slot[value], slot[value]' or a mapping of slots to single "
                f"values in every row of {self.column!r}, got {given!r} in row {row} of the batch."
            )
        # `datasets` gives every row the slots of all rows, with None for those that the row does not have.
        pairs = [(slot.strip(), "" if value is None else str(value).strip()) for slot, value in slots]
        return [(slot, value) for slot, value in pairs if value and slot not in self.ignore]
