"""Prompts from the command line: the arguments themselves, the lines of a file, or standard input."""

import sys
from collections.abc import Sequence
from pathlib import Path

from monosem.errors import RecipeError

STANDARD_INPUT = "-"


def read_prompts(given: Sequence[str], file: str | None) -> list[str]:
    """The arguments, and behind them the lines of `file`; `-` is standard input in either place.

    Raises:
        RecipeError: there is no prompt, one is empty, or the file cannot be read as UTF-8 text.
    """
    prompts: list[str] = []
    for place, prompt in enumerate(given):
        if prompt != STANDARD_INPUT and not prompt:
            raise RecipeError(f"{f'prompt {place}' if len(given) > 1 else 'the prompt'} is empty")
        prompts += _lines(STANDARD_INPUT) if prompt == STANDARD_INPUT else [prompt]
    if file is not None:
        prompts += _lines(file)
    if not prompts:
        raise RecipeError("there is no prompt: give one or more texts, --file FILE, or - for standard input")
    return prompts


def read_text(given: str) -> str:
    """The argument itself; for `-` all of standard input.

    Raises:
        RecipeError: standard input is not UTF-8.
    """
    return _content(STANDARD_INPUT) if given == STANDARD_INPUT else given


def _lines(file: str) -> list[str]:
    """Each line a prompt; the last may lack its line end."""
    name, text = _named(file), _content(file)
    if not text:
        raise RecipeError(f"{name}: is empty; expected one prompt a line")
    lines = text.removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            raise RecipeError(f"{name}, line {number}: an empty prompt; each line is one")
    return lines


def _content(file: str) -> str:
    try:
        content = sys.stdin.buffer.read() if file == STANDARD_INPUT else Path(file).read_bytes()
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{_named(file)}: not UTF-8 (byte {error.start}); save it as UTF-8 text") from None
    except OSError as error:
        raise RecipeError(f"{_named(file)}: {error.strerror}; expected a text file with one prompt a line") from None


def _named(file: str) -> str:
    return "standard input" if file == STANDARD_INPUT else file
