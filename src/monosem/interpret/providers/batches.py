"""Batches at a provider: sent once, looked after, fetched. Nothing is paid twice.

A batch interface has no way to send "if not sent already". So the intent is on the disk before a batch is created; if
the answer to that never came, the provider's list of batches is read, and a batch that is ours is adopted. Only when
there is none is the chunk sent (again). `BatchInterface` is what differs between providers.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from monosem.atomic import atomic_path
from monosem.errors import ProviderError
from monosem.interpret.providers.book import Book, Chunk, Limits
from monosem.interpret.providers.carrier import estimated_tokens, keep
from monosem.interpret.providers.keys import Key
from monosem.interpret.providers.patience import Fault, Patience, described, faults, persist
from monosem.interpret.providers.protocol import Outcome, Request

T = TypeVar("T")
Verdict = Literal["ours", "another", "not known yet"]


class Batch(NamedTuple):
    """A batch as the provider lists it."""

    id: str
    ended: bool
    count: int | None
    """Requests in it; None: the provider does not say."""
    label: str | None
    """What we named it; None: the provider keeps no names."""


class Results(NamedTuple):
    """A file of results to fetch."""

    suffix: str
    """Of its name here."""
    source: str
    """Its name at the provider."""
    lines: int | None
    """How many lines it has; None: the provider does not say."""


class RefusedBatch(Exception):
    """The provider took a batch and found then that it cannot work on any of it."""


class BatchInterface(Protocol):
    """One provider's batches. Every method makes one call, and lets the client's exceptions through."""

    name: str
    model: str
    key: Key
    limits: Limits

    def close(self) -> None:
        """Close the connections."""
        ...

    def line(self, request: Request) -> bytes: ...

    def outcome(self, line: dict[str, Any]) -> Outcome: ...

    def newest(self) -> str | None:
        """The id of the newest batch there is."""
        ...

    def since(self, newest: str | None) -> list[Batch]:
        """Batches created after `newest`; all, if there is no such batch."""
        ...

    def upload(self, requests: Path) -> str:
        """Bring the file of requests there, where that is a step of its own; costs nothing. Returns its name, or ""."""
        ...

    def create(self, requests: Path, uploaded: str, label: str) -> str:
        """Create the batch: from here on it costs money. Returns its id."""
        ...

    def look(self, batch: str) -> Batch:
        """How far a batch is."""
        ...

    def results(self, batch: str) -> list[Results]:
        """The files of results of a batch that has ended; raises `RefusedBatch` where there can be none."""
        ...

    def download(self, source: str) -> Iterator[bytes]:
        """A file of results, in pieces."""
        ...

    def belongs(self, batch: Batch, ids: set[str], label: str) -> Verdict:
        """Whether a batch is the one with these requests."""
        ...


class BatchCarrier:
    """Carries chunks as batches (`Carrier`)."""

    def __init__(self, interface: BatchInterface, patience: Patience, limits: Limits, context: int | None) -> None:
        self._interface, self._patience = interface, patience
        self.name, self.model, self.limits, self.context = interface.name, interface.model, limits, context
        self.line, self.outcome, self.prompt_tokens = interface.line, interface.outcome, estimated_tokens
        self.close = interface.close

    def send(self, book: Book, chunk: Chunk) -> None:
        requests = book.requests(chunk)
        for tried in range(1, self._patience.tries + 1):
            if chunk.state == "sending" and not self._may_be_sent(book, chunk):
                return
            if not chunk.uploaded:
                uploaded = self._call(lambda: self._interface.upload(requests))
                if uploaded:
                    book.record("uploaded", chunk=chunk.name, file=uploaded)
            # a second intent keeps the first one's mark, so that a batch that shows up late is still found
            newest = chunk.newest if chunk.state == "sending" else self._call(self._interface.newest)
            book.record("intent", chunk=chunk.name, newest=newest)
            try:
                with faults(self._interface.key):
                    batch = self._interface.create(requests, chunk.uploaded, self._label(book, chunk))
                book.record("created", chunk=chunk.name, batch=batch)
                return
            except Fault as fault:
                if fault.rejected:
                    book.record("rejected", chunk=chunk.name, error=fault.message)
                if (fault.rejected and not fault.passing) or tried == self._patience.tries:
                    raise described(fault, self.name) from None
                self._patience.back_off(tried, fault.retry_after)

    def look(self, book: Book, chunk: Chunk) -> None:
        if chunk.state == "sending":
            self._may_be_sent(book, chunk)
        if chunk.state == "sent" and self._call(lambda: self._interface.look(chunk.batch), chunk).ended:
            book.record("ended", chunk=chunk.name, batch=chunk.batch)

    def collect(self, book: Book, chunk: Chunk) -> bool:
        self.look(book, chunk)
        if chunk.state == "ended":
            try:
                listed = self._call(lambda: self._interface.results(chunk.batch), chunk)
            except RefusedBatch as refused:
                book.record("rejected", chunk=chunk.name, error=str(refused))
                raise ProviderError(
                    f"{self.name} refused batch {chunk.batch} as a whole, and billed nothing: {refused}; "
                    f"mend that, then send again"
                ) from None
            names = [f"{chunk.name}{results.suffix}.jsonl" for results in listed]
            for results, name in zip(listed, names, strict=True):
                self._call(lambda results=results, name=name: self._fetch(results, book.results(name)), chunk)
            keep(book, chunk, self, names)
        return chunk.state == "fetched"

    def _may_be_sent(self, book: Book, chunk: Chunk) -> bool:
        """Find out what became of a chunk whose creation had no answer: a batch that is ours is adopted.

        Returns whether it certainly never reached the provider. False as well while a batch may be it and nobody can
        tell before it has ended.
        """
        wait = chunk.since + self._patience.settle - time.time()
        if wait > 0:
            self._patience.sleep(wait)
        known = {other.batch for other in book.chunks.values()}
        ids, label, open_question = set(book.ids(chunk)), self._label(book, chunk), False
        for batch in self._call(lambda: self._interface.since(chunk.newest)):
            if batch.id in known:
                continue
            verdict = self._call(lambda batch=batch: self._interface.belongs(batch, ids, label))
            if verdict == "ours":
                book.record("created", chunk=chunk.name, batch=batch.id, adopted=True)
                return False
            open_question |= verdict == "not known yet"
        return not open_question

    def _fetch(self, results: Results, path: Path) -> None:
        """Download a file whole, or not at all."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            last, lines = b"\n", 0
            for piece in self._interface.download(results.source):
                file.write(piece)
                last, lines = piece[-1:] or last, lines + piece.count(b"\n")
            lines += last != b"\n"
            if results.lines is not None and lines < results.lines:
                raise Fault(None, None, f"the results end after {lines:,} of {results.lines:,} lines")

    def _call(self, call: Callable[[], T], chunk: Chunk | None = None) -> T:
        try:
            return persist(call, self.name, self._interface.key, self._patience)
        except Fault as fault:
            if chunk is None:
                raise described(fault, self.name) from None
            raise ProviderError(
                f"batch {chunk.batch} (chunk {chunk.name}, {chunk.count:,} requests) is gone at {self.name}: deleted, "
                f"or too old ({fault.message}); to ask, and pay for, these once more: explain send --resend-lost"
            ) from None

    @staticmethod
    def _label(book: Book, chunk: Chunk) -> str:
        return f"{book.owner[:16]}-{chunk.name}-{chunk.sha256[:16]}"
