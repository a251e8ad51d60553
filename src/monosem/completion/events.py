"""What is told while the model writes, and what is left in the end.

For every row: `Began`, then a `Wrote` for each token, a `Read` for each token once the model has passed it, `Ended`.
Rows are told side by side as the batch goes on; the events of one row come in order.
"""

from typing import Any, Literal, NamedTuple


class ActiveLatent(NamedTuple):
    """A latent that fires at a token."""

    latent: int
    value: float
    """Before any edit."""
    share: float | None
    """Of its largest value on the corpus; None where that is not known."""
    explanation: str | None
    certainty: float | None


class WrittenToken(NamedTuple):
    """A generated token and the latents that are most active at it, strongest first."""

    id: int
    token: str
    """By itself; part of a character is shown as its bytes, `<E2><80>`."""
    latents: list[ActiveLatent]
    """Empty for an attention sink, which the SAE never saw, and where latents were not asked for."""


class Prompt(NamedTuple):
    """A text to go on from, whose tokens are known already."""

    text: str
    ids: list[int]


class Row(NamedTuple):
    """One text to be written."""

    prompt: Prompt
    seed: int
    """Of its own random generator: what is drawn does not depend on the other rows."""
    steered: bool


class Completion(NamedTuple):
    """What the model made of a prompt."""

    prompt: str
    text: str
    """Without the prompt and without the token that closed it."""
    tokens: list[WrittenToken]
    """One for each token of `text`."""
    seed: int
    steered: bool
    finish: Literal["stop", "length"]
    """`stop`: the model closed the text; `length`: it wrote all the tokens it was allowed."""
    perplexity: float | None
    """Of the new tokens, a closing one included, under the clean model; None unless asked for."""

    def as_json(self) -> dict[str, Any]:
        """As an object for JSON."""
        tokens = [one._asdict() | {"latents": [latent._asdict() for latent in one.latents]} for one in self.tokens]
        return self._asdict() | {"tokens": tokens}


class Began(NamedTuple):
    """A row is about to be written."""

    row: int
    text: Row


class Wrote(NamedTuple):
    """A row has one more token."""

    row: int
    token: str
    text: str
    """What can now be shown: whole characters only, so sometimes nothing, or more than the token."""


class Read(NamedTuple):
    """The latents at a token are known: those of the row's tokens in turn."""

    row: int
    latents: list[ActiveLatent]


class Ended(NamedTuple):
    """A row is finished."""

    row: int
    text: str
    """What was held back: the bytes of an unfinished character, as U+FFFD."""
    completion: Completion


Event = Began | Wrote | Read | Ended
