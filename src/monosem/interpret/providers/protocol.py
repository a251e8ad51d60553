"""What a prompt is and what comes back, whoever answers it.

Explanations and the scores that need a judge are written against `Provider` alone. Knows no network and no price.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Status = Literal["succeeded", "refused", "truncated", "errored", "expired", "canceled"]
"""How an item ended. `refused` and `truncated` are outcomes, never text; `errored`, `expired` and `canceled` cost
nothing; `Outcome.again` says which of them may be asked again."""


@dataclass(frozen=True)
class Request:
    """One prompt."""

    id: str
    """Unique in its run; at most 64 of `[A-Za-z0-9_-]`, which is what every batch interface accepts."""
    system: str
    """What all requests of a kind share: providers that can cache a prefix cache this one."""
    prompt: str
    max_tokens: int
    schema: Mapping[str, Any] | None = None
    """JSON schema that the answer has to follow, for providers that can enforce one."""
    temperature: float | None = None
    """None: the provider's own. Newer models refuse to be told one."""


@dataclass(frozen=True)
class Usage:
    """Tokens as the provider counts them."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
        )


@dataclass(frozen=True)
class Outcome:
    """What became of one request."""

    id: str
    status: Status
    text: str
    """Empty unless `succeeded`."""
    usage: Usage
    model: str
    """As the provider names what answered."""
    error: str = ""
    """One line, for every status but `succeeded`."""
    again: bool = False
    """Whether asking once more may help: it expired, was canceled, or the provider failed. Never set for a request that
    the provider will refuse every time."""


class Provider(Protocol):
    """Answers requests while one waits."""

    @property
    def name(self) -> str:
        """As the recipe names it."""
        ...

    @property
    def model(self) -> str: ...

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """One outcome for each request, in the order they come back.

        Raises:
            ProviderError: nothing can be answered at all: no key, a wrong key, no such server.
        """
        ...
