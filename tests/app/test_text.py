"""Text made fit for a terminal: control characters, and lines that break between words."""

import pytest
from rich.cells import cell_len

from monosem.app.text import WordWrap, printable

TEXT = (
    "A king who was a king of a different kingdom, unaltered since.\n\nThe  end of it: " + "日本語テキスト" * 8 + " x."
)


def wrapped(pieces, width):
    wrap = WordWrap(width)
    return "".join([*(wrap.push(piece) for piece in pieces), wrap.close()])


def test_no_control_character_reaches_the_terminal():
    assert printable("a\x1b[31m\x07\r\x00b\x7f\x9b2J\tc\n") == "a␛[31m␇␍␀b␡\ufffd2J\tc\n"
    assert printable("é日本👩‍👧 ") == "é日本👩‍👧 "


@pytest.mark.parametrize("width", [20, 33, 80])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_break_between_words_and_nothing_else_changes(width, size):
    shown = wrapped([TEXT[start : start + size] for start in range(0, len(TEXT), size)], width)
    assert "".join(shown.split()) == "".join(TEXT.split())
    for line in shown.split("\n"):
        assert cell_len(line) < width or "日" in line, "what is wider than a line, the terminal breaks"
    for word in ("different", "kingdom,", "unaltered"):
        assert word in shown
    assert "\n\nThe  end" in shown


def test_only_the_word_at_the_edge_waits():
    wrap = WordWrap(36)
    assert wrap.push("It is") == "It is"
    assert wrap.push(" a long way to") == " a long way to"
    assert wrap.push(" the") == ""
    assert wrap.push("atre") == ""
    assert wrap.push(" and") == " theatre"
    assert wrap.push(" back") == " and"
    assert wrap.push(" home") == "\nback home"
    assert wrap.close() == ""
