"""A row while it is written: characters of several tokens, and the token that closes the text."""

from pathlib import Path

import pytest

from monosem.completion.events import Prompt, Row
from monosem.completion.writing import Writing
from monosem.lm.tokenizer import Tokenizer

ROW = Row(Prompt("Say", [1]), seed=7, steered=True)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    """Byte-level: letters beyond ASCII take several tokens."""
    return Tokenizer.from_file(tiny_model / "tokenizer.json", eos_ids=[0])


def test_characters_are_shown_whole_and_an_unfinished_one_in_the_end(tokenizer: Tokenizer) -> None:
    writing = Writing(ROW, tokenizer)
    ids = tokenizer.encode("aé日")[:-1]
    shown = [writing.push(token, ended=place == len(ids) - 1) for place, token in enumerate(ids)]
    assert shown == [("a", "a"), ("<C3>", ""), ("<A9>", "é"), ("<E6>", ""), ("<97>", "")]
    held, completion = writing.end(None)
    assert set(held) == {"\ufffd"}
    assert completion.text == f"aé{held}"
    assert [token.token for token in completion.tokens] == ["a", "<C3>", "<A9>", "<E6>", "<97>"]
    assert (completion.finish, completion.seed, completion.steered) == ("length", 7, True)


def test_the_closing_token_has_no_text_and_no_latents(tokenizer: Tokenizer) -> None:
    writing = Writing(ROW, tokenizer)
    (letter,) = tokenizer.encode("a")
    writing.push(letter, ended=False)
    assert writing.read([])
    assert writing.push(0, ended=True) is None
    assert not writing.read([])
    held, completion = writing.end(3.0)
    assert (held, completion.text, completion.finish, completion.perplexity) == ("", "a", "stop", 3.0)
    assert [token.id for token in completion.tokens] == [letter]
    assert writing.ids == [letter, 0]
    assert writing.told


def test_a_text_that_is_closed_at_once_is_empty(tokenizer: Tokenizer) -> None:
    writing = Writing(ROW, tokenizer)
    assert writing.push(0, ended=True) is None
    assert writing.end(None)[1].text == ""
