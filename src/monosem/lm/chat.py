"""Conversations as token ids, in the format a model was trained on.

Roles and closing marks are special tokens, put in by id; what people write stays text, so that nobody can end a turn by
spelling its mark. Knows formats, not models: `chat_format` chooses by the special tokens of the vocabulary.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from monosem.errors import ModelError
from monosem.lm.tokenizer import Tokenizer


class Message(NamedTuple):
    """One turn."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


class ChatFormat(Protocol):
    """How one family of models writes a conversation."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt's ids, up to where the assistant's next answer begins.

        Raises:
            ModelError: the roles are out of order.
        """
        ...


def chat_format(tokenizer: Tokenizer) -> ChatFormat:
    """Return the format of the model that `tokenizer` belongs to.

    Raises:
        ModelError: its special tokens are of no format that is known.
    """
    for marks, build in _FORMATS.items():
        if all(mark in tokenizer.special for mark in marks):
            return build(tokenizer)
    known = "; ".join(" ".join(marks) for marks in _FORMATS)
    raise ModelError(f"the model has no chat format that is known (special tokens {known}); use text completion")


class ChatML:
    """`<|im_start|>role\\ncontent<|im_end|>\\n` for every turn."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._start, self._end = tokenizer.special["<|im_start|>"], tokenizer.special["<|im_end|>"]
        found = _DEFAULT_SYSTEM.search(tokenizer.chat_template or "")
        self.default_system = found[1] if found else None
        """The system message that the model's own template puts before a conversation without one."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        check_roles(messages)
        turns = list(messages)
        if self.default_system is not None and turns[0].role != "system":
            turns.insert(0, Message("system", self.default_system))
        newline = self._tokenizer.encode("\n")
        ids: list[int] = []
        for turn in turns:
            ids += [self._start, *self._tokenizer.encode(f"{turn.role}\n{turn.content}"), self._end, *newline]
        return [*ids, self._start, *self._tokenizer.encode("assistant\n")]


_FORMATS = {("<|im_start|>", "<|im_end|>"): ChatML}
"""By the special tokens that give a format away."""

_DEFAULT_SYSTEM = re.compile(r"'<\|im_start\|>system\n(.*?)<\|im_end\|>", re.DOTALL)


def check_roles(messages: Sequence[Message]) -> None:
    """Raise ModelError unless: a system message at most once, first; then user and assistant in turn, a user's last."""
    spoken = messages[1:] if messages and messages[0].role == "system" else messages
    for place, message in enumerate(spoken):
        expected = ("user", "assistant")[place % 2]
        if message.role != expected:
            raise ModelError(
                f"message {len(messages) - len(spoken) + place} is the {message.role}'s, expected {expected}"
            )
    if len(spoken) % 2 == 0:
        raise ModelError("the conversation has to end with a message of the user")
