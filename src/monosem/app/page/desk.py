"""What one browser writes: its texts while they grow, and its conversation. Nothing here is shared between browsers.

Flow: `write` turns the events of `Completer.stream` into `Text`s that a view can draw at any moment; a newer wish, the
stop button or a closed page end it at the next token. Knows no Gradio and no HTML.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from monosem.errors import ModelError

if TYPE_CHECKING:
    from monosem.completion import Completer, Conversation, Event, SteeringSet, WrittenToken
    from monosem.lm.generate import Sampling

LATENTS = 8  # read at every new token


@dataclass(frozen=True)
class Wish:
    """What is to be written."""

    text: str
    """The prompt, or what is said in the chat."""
    chat: bool
    system: str | None
    steering: "SteeringSet"
    sampling: "Sampling"

    @property
    def steers(self) -> bool:
        """Whether the steering changes anything."""
        return bool(self.steering.edits) or self.steering.replace


@dataclass
class Text:
    """One text while it is written."""

    steered: bool
    prompt: list[int] = field(default_factory=list)
    """Ids of what it goes on from."""
    tokens: list["WrittenToken"] = field(default_factory=list)
    """Those that have been read have their latents."""
    read: int = 0
    """How many have been."""
    text: str = ""
    finish: str | None = None
    """None while it is written; `stop`, `length`, or `stopped` by the reader."""
    perplexity: float | None = None
    concept: float | None = None
    """`monosem.completion.concept` of the steered latents; None where nothing is steered."""


@dataclass
class Exchange:
    """A prompt, and what was written."""

    prompt: str
    texts: list[Text]
    """Plain and steered, or one of them."""
    edited: frozenset[int] = frozenset()
    """Latents that are steered."""


class Desk:
    """One browser's texts."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.run = ""
        """The run that wrote them."""
        self.chat = False
        self._conversation: Conversation | None = None
        self._stop = threading.Event()

    @property
    def writing(self) -> bool:
        """Whether something is being written."""
        return any(text.finish is None for exchange in self.exchanges for text in exchange.texts)

    def stop(self) -> None:
        """End what is being written, at its next token."""
        self._stop.set()

    def clear(self) -> None:
        """Forget texts and conversation."""
        self.stop()
        self.exchanges, self._conversation = [], None

    def write(self, completer: "Completer", run: str, wish: Wish) -> Iterator[None]:
        """Write, and yield whenever there is something new to be seen.

        Raises:
            ModelError, SaeError: the wish does not fit; nothing has changed.
        """
        prompt, sampling = self._prompt(completer, run, wish)
        events = completer.stream(
            [prompt],
            wish.steering.edits,
            sampling,
            error_preserving=not wish.steering.replace,
            compare=wish.steers,
            show_latents=LATENTS,
            perplexity=True,
        )
        self.stop()
        stop = self._stop = threading.Event()
        texts = [Text(False), Text(True)] if wish.steers else [Text(False)]
        exchange = Exchange(wish.text, texts, frozenset(edit.latent for edit in wish.steering.edits))
        kept = self.exchanges if wish.chat and self.chat and self.run == run else []
        self.exchanges, self.run, self.chat = [*kept, exchange], run, wish.chat
        yield
        try:
            with contextlib.closing(events):
                for event in events:
                    self._take(event, exchange, completer)
                    yield
                    if stop.is_set():
                        break
        finally:
            for text in exchange.texts:
                text.finish = text.finish or "stopped"
            if wish.chat and self._conversation is not None and exchange.texts[-1].text:
                self._conversation.add(wish.text, exchange.texts[-1].text)
        yield

    def _prompt(self, completer: "Completer", run: str, wish: Wish):
        """The prompt as text, or as the conversation so far with what is said now; and its sampling."""
        if not wish.text.strip():
            raise ModelError("the prompt is empty; write something to go on from")
        if not wish.chat:
            return wish.text, wish.sampling
        from monosem.completion import Conversation

        if self._conversation is None or self.run != run or not self.chat:
            model = completer.model
            self._conversation = Conversation(model.tokenizer, model.config.context_length)
        self._conversation.system = wish.system or None
        return self._conversation.ask(wish.text, wish.sampling)

    def _take(self, event: "Event", exchange: Exchange, completer: "Completer") -> None:
        from monosem.completion import Began, Ended, Read, WrittenToken, Wrote, concept

        text = exchange.texts[event.row]
        match event:
            case Began(_, row):
                text.prompt = row.prompt.ids
            case Wrote(_, token, shown):
                text.tokens.append(WrittenToken(-1, token, []))
                text.text += shown
            case Read(_, latents):
                text.tokens[text.read] = text.tokens[text.read]._replace(latents=latents)
                text.read += 1
            case Ended(_, shown, completion):
                text.text += shown
                text.tokens, text.perplexity = completion.tokens, completion.perplexity
                if exchange.edited:
                    ids = [token.id for token in completion.tokens]
                    text.concept = concept(completer, text.prompt, ids, exchange.edited)
                text.finish = completion.finish
