"""What all handlers of the page share: how they are put to events, and how a mistake is told."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

from monosem.app.page.render import message
from monosem.errors import ModelError, MonosemError

P = ParamSpec("P")

MOST_CHARACTERS = 100_000  # of a text that is pasted

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Of an event that is answered at once."""


def told(handler: Callable[P, str]) -> Callable[P, str]:
    """A handler whose mistakes are one line in the place of its HTML."""

    @functools.wraps(handler)
    def call(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            return handler(*args, **kwargs)
        except MonosemError as error:
            return message(str(error), "error")

    return call


def check_text(text: str, what: str) -> None:
    """Raise ModelError for a text that is empty, or so long that even its tokens are not worth counting: both are told
    before a model is loaded."""
    if not (text or "").strip():
        raise ModelError(f"{what} is empty; write or paste some")
    if len(text) > MOST_CHARACTERS:
        raise ModelError(f"{what} has {len(text):,} characters; the page takes at most {MOST_CHARACTERS:,}: cut it")
