"""Prompts from arguments, files and standard input."""

import io
import sys

import pytest

from monosem.app.prompts import read_prompts
from monosem.errors import RecipeError


@pytest.fixture
def typed(monkeypatch):
    def type_(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return type_


def test_each_line_is_one_prompt(tmp_path, typed):
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"\xef\xbb\xbfone \r\n two\x0b\xe2\x80\xa8three\nfour")
    assert read_prompts((), str(file)) == ["one ", " two\x0b\u2028three", "four"]
    assert read_prompts(("zero",), str(file))[:2] == ["zero", "one "]
    typed(b"a\nb\n")
    assert read_prompts(("-",), None) == ["a", "b"]
    typed("é\n".encode())
    assert read_prompts((), "-") == ["é"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty; expected one prompt a line"),
        (b"\n", "line 1: an empty prompt"),
        (b"a\n\nb\n", "line 2: an empty prompt"),
        (b"a\xff", "not UTF-8 (byte 1)"),
    ],
)
def test_a_file_of_no_prompts(content, told, tmp_path, typed):
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    typed(content)
    for source, name in ((str(file), str(file)), ("-", "standard input")):
        with pytest.raises(RecipeError) as error:
            read_prompts((), source)
        assert str(error.value).startswith(name)
        assert told in str(error.value)


def test_what_is_no_prompt_at_all(tmp_path):
    with pytest.raises(RecipeError, match="there is no prompt"):
        read_prompts((), None)
    with pytest.raises(RecipeError, match="prompt 1 is empty"):
        read_prompts(("a", ""), None)
    with pytest.raises(RecipeError, match=r"none\.txt: No such file"):
        read_prompts((), str(tmp_path / "none.txt"))
