"""One row while it is written: its tokens, its text, and the latents read so far."""

from monosem.completion.events import ActiveLatent, Completion, Row, WrittenToken
from monosem.lm.tokenizer import Tokenizer


class Writing:
    """A row and what it has so far."""

    def __init__(self, row: Row, tokenizer: Tokenizer) -> None:
        self.row = row
        self.ids: list[int] = []
        """The new tokens, a closing one included."""
        self.full = False
        """Whether its last token is there."""
        self.told = False
        """Whether its end has been told."""
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream()
        self._text: list[str] = []
        self._latents: list[list[ActiveLatent]] = []

    def push(self, token: int, ended: bool) -> tuple[str, str] | None:
        """Take the next token; returns it and what can now be shown, or None where it closes the text."""
        self.ids.append(token)
        self.full = ended
        if self._closed:
            return None
        text = self._stream.push(token)
        self._text.append(text)
        return self._tokenizer.pieces([token])[0], text

    def read(self, latents: list[ActiveLatent]) -> bool:
        """Take the latents of the next token; False where that is the one that closes the text."""
        if self._closed and len(self._latents) == len(self.ids) - 1:
            return False
        self._latents.append(latents)
        return True

    def end(self, perplexity: float | None) -> tuple[str, Completion]:
        """Close the row: the characters that were held back, and the completion."""
        self.told = True
        held = self._stream.close()
        ids = self.ids[:-1] if self._closed else self.ids
        unread: list[list[ActiveLatent]] = [[]] * (len(ids) - len(self._latents))
        pieces = self._tokenizer.pieces(ids)
        tokens = [WrittenToken(*one) for one in zip(ids, pieces, [*self._latents, *unread], strict=True)]
        text = "".join([*self._text, held])
        finish = "stop" if self._closed else "length"
        return held, Completion(self.row.prompt.text, text, tokens, self.row.seed, self.row.steered, finish, perplexity)

    @property
    def _closed(self) -> bool:
        """Whether the model itself closed the text."""
        return self.full and self.ids[-1] in self._tokenizer.eos_ids
