"""Differences of texts in words."""

from hypothesis import given
from hypothesis import strategies as st

from lmrl.evaluation.reporting.worddiff import word_diff


def test_equal_texts_have_nothing_marked():
    assert word_diff("a b  c\n", "a b  c\n") == ([("a b  c\n", False)], [("a b  c\n", False)])


def test_changed_words_are_marked_on_both_sides_without_the_spaces_around_them():
    gone, new = word_diff("The Eagle is a cheap pub.", "The Eagle is an old and cheap pub.")
    assert gone == [("The Eagle is", False), (" ", False), ("a", True), (" cheap pub.", False)]
    assert new == [("The Eagle is", False), (" ", False), ("an old and", True), (" cheap pub.", False)]


def test_a_difference_in_spaces_alone_is_not_marked():
    assert word_diff("a b", "a  b\n") == ([("a b", False)], [("a  b", False), ("\n", False)])


def test_an_empty_text_has_no_pieces():
    assert word_diff("", "a b") == ([], [("a b", True)])
    assert word_diff("", "") == ([], [])


@given(st.text(alphabet="ab \n", max_size=20), st.text(alphabet="ab \n", max_size=20))
def test_the_pieces_are_the_text_and_the_unmarked_words_are_common(before, after):
    gone, new = word_diff(before, after)
    assert "".join(text for text, _ in gone) == before and "".join(text for text, _ in new) == after
    kept = [" ".join(text for text, changed in pieces if not changed).split() for pieces in (gone, new)]
    assert kept[0] == kept[1]


def test_long_texts_that_repeat_their_words_are_matched():
    """With `difflib`, whose time grows with the cube of the length, this does not end within an hour."""
    gone, new = word_diff(" ".join(["the"] * 3000), " ".join(["the", "cat"] * 1500))
    assert sum(len(text.split()) for text, changed in new if changed) == 1500
    assert sum(len(text.split()) for text, changed in gone if changed) == 1500
