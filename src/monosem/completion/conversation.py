"""The turns of a chat, and the prompt that the next answer goes on from.

Nothing is added before an answer is there, so a question that cannot be answered leaves the conversation as it was.
Every answer reads the whole conversation anew. Knows no model but its tokenizer and the length of its context.
"""

import dataclasses
from typing import NamedTuple

from monosem.completion.completer import check_text
from monosem.completion.events import Prompt
from monosem.errors import ModelError
from monosem.lm.chat import Message, chat_format
from monosem.lm.generate import Sampling
from monosem.lm.tokenizer import Tokenizer


class Question(NamedTuple):
    """A question, ready for `Completer.stream`."""

    prompt: Prompt
    sampling: Sampling
    """With no more new tokens than the context has room for."""


class Conversation:
    """A chat with one model.

    Raises:
        ModelError: the model has no chat format that is known.
    """

    def __init__(self, tokenizer: Tokenizer, context_length: int, system: str | None = None) -> None:
        self.system = system
        """The system message; None: the model's own, if its format has one."""
        self.turns: list[Message] = []
        """Questions and answers in turn."""
        self._format, self._context = chat_format(tokenizer), context_length

    def ask(self, text: str, sampling: Sampling) -> Question:
        """The prompt for an answer to `text`.

        Raises:
            ModelError: the text is empty, or the context has no room for a single token of an answer.
        """
        check_text(text, "the message")
        if not text.strip():
            raise ModelError("the message is empty")
        system = [] if self.system is None else [Message("system", self.system)]
        ids = self._format.encode([*system, *self.turns, Message("user", text)])
        room = self._context - len(ids)
        if room < 1:
            raise ModelError(
                f"the context is full: with this message the conversation has {len(ids)} tokens of {self._context}; "
                "nothing was sent; shorten the message, or begin anew with /reset"
            )
        most = min(sampling.max_new_tokens, room)
        return Question(Prompt(text, ids), dataclasses.replace(sampling, max_new_tokens=most))

    def add(self, question: str, answer: str) -> None:
        """Keep a question with its answer."""
        self.turns += [Message("user", question), Message("assistant", answer)]

    def reset(self) -> None:
        """Forget all turns; the system message stays."""
        self.turns.clear()
