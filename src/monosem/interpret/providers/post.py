"""Requests in a folder on their way to a provider and back: planned, sent, looked after, fetched.

Every step can be made alone, by another process, and after a crash; what was done is not done again. Money is spent by
`send` alone, only with consent, and never beyond the budget. Knows no prompts: explanations and scores both use it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from monosem import progress
from monosem.atomic import sha256
from monosem.errors import ProviderError
from monosem.interpret.providers.book import Book, Chunk, Line, State
from monosem.interpret.providers.carrier import Carrier, most, read_results
from monosem.interpret.providers.patience import Patience
from monosem.interpret.providers.prices import OWN_MACHINE, Price
from monosem.interpret.providers.protocol import Outcome, Request, Usage


class Consent(NamedTuple):
    """What the user allows."""

    send: bool = False
    max_usd: float | None = None
    """Most that may be spent in this folder, over all times; None: no bound."""


@dataclass(frozen=True)
class Sum:
    """Some chunks together."""

    chunks: int
    requests: int
    bytes: int
    tokens: Usage
    """Of chunks that are fetched: what the provider counted; else the most that they can use."""
    usd: float | None
    """The same in money; None: the price is not known."""
    unseen: int
    """Requests whose answer was cut off or lost; they may have been paid for besides."""


class Post:
    """The requests of one folder and their provider (`protocol.Provider`); a `with` block closes the connections.

    Args:
        folder: holds the ledger, `requests/` and `results/`.
        owner: digest of what asks; stands at the beginning of the ledger.

    Raises:
        ProviderError: the ledger was edited or is another owner's.
    """

    def __init__(
        self,
        folder: Path,
        owner: str,
        carrier: Carrier,
        price: Price | None,
        consent: Consent,
        patience: Patience,
    ) -> None:
        self.book = Book(folder, owner)
        self.carrier, self.price, self.consent = carrier, price, consent
        self._patience = patience

    @property
    def name(self) -> str:
        return self.carrier.name

    @property
    def model(self) -> str:
        return self.carrier.model

    def __enter__(self) -> "Post":
        return self

    def __exit__(self, *_: object) -> None:
        self.carrier.close()

    def answer(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Outcomes of requests, in the order they came back; those answered in this folder before cost nothing.

        Raises:
            ProviderError: no consent to send, no budget, no such server, no or a wrong key.
        """
        wanted: set[str] = set()

        def noted() -> Iterator[Request]:
            for request in requests:
                wanted.add(request.id)
                yield request

        self.plan(noted())
        self.finish()
        return (outcome for outcome in self.outcomes() if outcome.id in wanted)

    def plan(self, requests: Iterable[Request]) -> int:
        """Write requests that are not there yet in chunks; returns how many. Sends nothing.

        Raises:
            ProviderError: a prompt is longer than the model's context, or larger than a batch.
        """
        return self.book.plan(map(self._line, requests), self.carrier.limits)

    def send(self) -> int:
        """Send the chunks that wait for it, as far as the budget allows; returns how many are left waiting.

        Raises:
            ProviderError: no consent, a budget too small for any of them, or the provider refuses.
        """
        waiting = self.of("planned", "sending")
        if waiting and not self.consent.send and self.name not in OWN_MACHINE:
            raise ProviderError(f"{self.told(waiting)} wait to be sent; nothing is sent without --yes or explain.send")
        sent = 0
        for chunk in waiting:
            if chunk.state == "planned" and not self._affordable(chunk):
                break
            self.carrier.send(self.book, chunk)
            sent += 1
        if waiting and not sent and not self.of("sent", "ended"):
            raise self._too_dear(waiting[0])
        return len(waiting) - sent

    def look(self) -> None:
        """Ask the provider how far the chunks under way are; fetches nothing."""
        for chunk in self.of("sending", "sent"):
            self.carrier.look(self.book, chunk)

    def fetch(self) -> int:
        """Look at the chunks under way and fetch those that have ended; returns how many are still under way."""
        return sum(not self.carrier.collect(self.book, chunk) for chunk in self.of("sending", "sent", "ended"))

    def finish(self) -> None:
        """Send, wait and fetch until every chunk is fetched. Raises as `send`."""
        while self.of("planned", "sending", "sent", "ended"):
            if self.of("planned", "sending"):
                self.send()
            if under_way := self.fetch():
                if self.name == "vllm":
                    raise ProviderError(f"no answers yet; bring them with: {self.of('sent')[0].batch}")
                progress.note(f"  {under_way:,} of {len(self.book.chunks):,} batches under way at {self.name}")
                self._patience.sleep(self._patience.poll)

    def resend_lost(self) -> int:
        """Give up batches that are gone at the provider, so that `send` asks, and pays, once more; returns how many."""
        gone = 0
        for chunk in self.of("sent", "ended"):
            try:
                self.carrier.collect(self.book, chunk)
            except ProviderError:
                self.book.record("lost", chunk=chunk.name, batch=chunk.batch)
                gone += 1
        return gone

    def outcomes(self) -> Iterator[Outcome]:
        """What became of every request of the chunks that are fetched.

        Raises:
            ProviderError: a file of results was changed since.
        """
        for chunk in self.of("fetched"):
            paths = [self.book.results(name) for name in chunk.files]
            for path in paths:
                if not path.exists() or sha256(path) != chunk.files[path.name]:
                    raise ProviderError(f"{path}: missing or changed since it was fetched; put it back as it was")
            missing = dict.fromkeys(self.book.ids(chunk))
            for line in read_results(paths):
                del missing[line["custom_id"]]
                yield self.carrier.outcome(line)
            for id_ in missing:
                yield Outcome(id_, "errored", "", Usage(), self.model, "the provider gave no result for it", again=True)

    def of(self, *states: State) -> list[Chunk]:
        """The chunks in one of these states."""
        return [chunk for chunk in self.book.chunks.values() if chunk.state in states]

    def sum(self, chunks: Iterable[Chunk]) -> Sum:
        """Chunks together."""
        taken = list(chunks)
        tokens = Usage()
        for chunk in taken:
            tokens += chunk.used if chunk.state in ("fetched", "lost") else chunk.most
        return Sum(
            len(taken),
            sum(chunk.count for chunk in taken),
            sum(chunk.bytes for chunk in taken),
            tokens,
            None if self.price is None else self.price.of(tokens),
            sum(chunk.count if chunk.state == "lost" else chunk.unseen for chunk in taken),
        )

    def told(self, chunks: Iterable[Chunk]) -> str:
        """Chunks that are to be sent, in words."""
        total = self.sum(chunks)
        cost = "at a price that is not known" if total.usd is None else f"at most ${total.usd:,.2f}"
        return f"{total.requests:,} requests in {total.chunks:,} chunks for {self.name} {self.model}, {cost},"

    def _line(self, request: Request) -> Line:
        tokens = self.carrier.prompt_tokens(request)
        fits, longest = self.carrier.context, self.price.longest if self.price else None
        if fits is not None and tokens + request.max_tokens > fits:
            raise ProviderError(
                f"request {request.id}: about {tokens:,} tokens and an answer of up to {request.max_tokens:,} do not "
                f"fit the context of {fits:,} of {self.model}; lower explain.examples or explain.max_tokens"
            )
        if longest is not None and tokens > longest:
            raise ProviderError(
                f"request {request.id}: about {tokens:,} tokens; the price of {self.model} holds up to {longest:,}; "
                f"lower explain.examples"
            )
        return Line(request.id, self.carrier.line(request), most(request, tokens))

    def _affordable(self, chunk: Chunk) -> bool:
        if self.consent.max_usd is None or self.name in OWN_MACHINE:
            return True
        if self.price is None:
            raise ProviderError(
                f"the price of {self.name} {self.model} is not known, so a budget cannot be kept; give it in a file "
                f"that explain.prices names, or send without a budget"
            )
        return self._spent() + self.price.of(chunk.most) <= self.consent.max_usd

    def _spent(self) -> float:
        """What was paid, and what is on its way costs at most. A batch that is gone was paid."""
        assert self.price is not None
        chunks = self.of("sending", "sent", "ended", "fetched", "lost")
        return sum(self.price.of(chunk.used if chunk.state == "fetched" else chunk.most) for chunk in chunks)

    def _too_dear(self, chunk: Chunk) -> ProviderError:
        assert self.price is not None
        assert self.consent.max_usd is not None
        return ProviderError(
            f"a budget of ${self.consent.max_usd:,.2f} is too small: ${self._spent():,.2f} are spent, the next chunk "
            f"of {chunk.count:,} requests costs up to ${self.price.of(chunk.most):,.2f}; raise --max-usd, or lower "
            f"explain.max_tokens or explain.chunk"
        )
