"""How requests reach a provider: what each kind of provider has to offer the `Post`.

Knows the book of chunks; knows nothing of prompts, prices or recipes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from monosem.atomic import sha256
from monosem.errors import ProviderError
from monosem.interpret.providers.book import Book, Chunk, Limits
from monosem.interpret.providers.protocol import Outcome, Request, Usage

BYTES_A_TOKEN = 3  # fewer than any tokenizer packs into a token of ordinary text: estimates are rather too high


class Carrier(Protocol):
    """One kind of provider."""

    name: str
    model: str
    limits: Limits
    context: int | None
    """Tokens that fit the model; None: nobody knows."""

    def close(self) -> None:
        """Close the connections."""
        ...

    def line(self, request: Request) -> bytes:
        """The request as it is sent: one JSON object that begins with `custom_id`."""
        ...

    def outcome(self, line: dict[str, Any]) -> Outcome:
        """What one line of raw results says."""
        ...

    def prompt_tokens(self, request: Request) -> int:
        """Tokens of the prompt, exactly or rather too many."""
        ...

    def send(self, book: Book, chunk: Chunk) -> None:
        """Bring a chunk that is planned, or that nobody knows whether it was sent, on its way.

        Raises:
            ProviderError: the provider takes none.
        """
        ...

    def look(self, book: Book, chunk: Chunk) -> None:
        """Record how far a chunk that is on its way is.

        Raises:
            ProviderError: the batch is gone.
        """
        ...

    def collect(self, book: Book, chunk: Chunk) -> bool:
        """Look at a chunk that is on its way, and fetch its results if they are there; returns whether they are.

        Raises:
            ProviderError: the batch is gone, or its results are not those of the chunk.
        """
        ...


def estimated_tokens(request: Request) -> int:
    """Tokens of a prompt whose tokenizer is not at hand: rather too many."""
    return len((request.system + request.prompt).encode()) // BYTES_A_TOKEN + 1


def most(request: Request, tokens: int) -> Usage:
    """The most that a request can use."""
    return Usage(input=tokens, output=request.max_tokens)


def read_results(paths: list[Path]) -> Iterator[dict[str, Any]]:
    """The answers in files of raw results, each id once; notes in between are left out.

    Raises:
        ProviderError: a line is not whole.
    """
    seen: set[str] = set()
    for path in paths:
        for line in read_lines(path):
            if "note" not in line and line["custom_id"] not in seen:
                seen.add(line["custom_id"])
                yield line


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """All lines of a file of raw results. Raises as `read_results`."""
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                line["custom_id"]
            except (ValueError, KeyError, TypeError):
                raise ProviderError(f"{path}: line {number} is no result of a request; fetch the file again") from None
            yield line


def check_ids(path: Path, ids: set[str], asked: set[str], chunk: Chunk) -> None:
    """Raise ProviderError if a file answers requests that the chunk did not ask."""
    for id_ in sorted(ids - asked)[:1]:
        raise ProviderError(
            f"{path}: has the answer to {id_}, which chunk {chunk.name} of this run did not ask for; "
            f"put the results of this run there"
        )


def keep(book: Book, chunk: Chunk, carrier: Carrier, names: list[str], unseen: int = 0) -> None:
    """Record that a chunk's results are there.

    Raises:
        ProviderError: the results are another chunk's, or another run's; nothing is recorded.
    """
    asked, used = set(book.ids(chunk)), Usage()
    for name in names:
        for line in read_results([book.results(name)]):
            check_ids(book.results(name), {line["custom_id"]}, asked, chunk)
            used += carrier.outcome(line).usage
    files = {name: sha256(book.results(name)) for name in names}
    book.record("fetched", chunk=chunk.name, files=files, used=vars(used), unseen=unseen)
