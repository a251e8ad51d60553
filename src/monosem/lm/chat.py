"""Conversations as token ids, in the format a model was trained on.

Roles and closing marks are special tokens, put in by id; what people write stays text, so that nobody can end a turn by
spelling its mark. Knows formats, not models: `chat_format` chooses by the special tokens of the vocabulary. An answer
ends at one of the tokenizer's `eos_ids`.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from monosem.errors import ModelError
from monosem.lm.tokenizer import Tokenizer


class Message(NamedTuple):
    """One turn."""

    role: str
    """`system`, `user`, `assistant`, and with Llama 3 `ipython`: what a tool gave back."""
    content: str


class ChatFormat(Protocol):
    """How one family of models writes a conversation."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt's ids, up to where the assistant's next answer begins.

        Raises:
            ModelError: a role is not known, or they are out of order.
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


class Llama3:
    """`<|start_header_id|>role<|end_header_id|>\\n\\ncontent<|eot_id|>` for every turn, behind `<|begin_of_text|>`.

    The same ids as `encode_dialog_prompt` of `llama_models.llama3.chat_format` gives.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._begin, self._start, self._end, self._close = (tokenizer.special[mark] for mark in _LLAMA3_MARKS)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        check_roles(messages, asking=("user", "ipython"))
        ids = [self._begin]
        for turn in messages:
            ids += [*self._header(turn.role), *self._tokenizer.encode(turn.content), self._close]
        return ids + self._header("assistant")

    def _header(self, role: str) -> list[int]:
        return [self._start, *self._tokenizer.encode(role), self._end, *self._tokenizer.encode("\n\n")]


_LLAMA3_MARKS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

_FORMATS: dict[tuple[str, ...], Callable[[Tokenizer], ChatFormat]] = {
    ("<|im_start|>", "<|im_end|>"): ChatML,  # first: Llamas tuned on ChatML keep Llama 3's tokens too
    _LLAMA3_MARKS: Llama3,
}
"""By the special tokens that give a format away."""

_DEFAULT_SYSTEM = re.compile(r"'<\|im_start\|>system\n(.*?)<\|im_end\|>", re.DOTALL)


def check_roles(messages: Sequence[Message], asking: Sequence[str] = ("user",)) -> None:
    """Check the order of roles: a system message at most once, first; then a user's, and answers by turns.

    Args:
        messages: the conversation, to be answered next.
        asking: the roles that the assistant answers; a user begins.

    Raises:
        ModelError: a role is not known or not where it can be; a message is named by its number, from 0.
    """
    known = ("system", *asking, "assistant")
    spoken = messages[1:] if messages and messages[0].role == "system" else messages
    before = len(messages) - len(spoken)
    for place, message in enumerate(spoken):
        if message.role not in known:
            raise ModelError(f"message {before + place}: role {message.role!r} is not known; known: {', '.join(known)}")
        expected = ("assistant",) if place % 2 else asking[: None if place else 1]
        if message.role not in expected:
            raise ModelError(f"message {before + place} is the {message.role}'s, expected {' or '.join(expected)}")
    if len(spoken) % 2 == 0:
        raise ModelError(f"the conversation has to end with a message of the {' or '.join(asking)}")
