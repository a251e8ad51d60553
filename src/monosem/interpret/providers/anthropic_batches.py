"""Anthropic's Message Batches, through the official SDK.

A batch carries no name of ours and its list shows no ids: whether a batch is ours is told by its size at once, and for
certain by the ids in its results, once it has ended. Results are kept 29 days there.
"""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.errors import ProviderError
from monosem.interpret.providers import messages
from monosem.interpret.providers.batches import Batch, Results, Verdict
from monosem.interpret.providers.book import Limits
from monosem.interpret.providers.keys import Key
from monosem.interpret.providers.patience import Fault
from monosem.interpret.providers.protocol import Outcome, Request

if TYPE_CHECKING:
    import anthropic

LIMITS = Limits(requests=100_000, bytes=256_000_000 - 1024)  # the rest is for what stands around the requests
SECONDS = 600.0  # an upload of a full batch takes minutes


class AnthropicBatches:
    """Message Batches of one model (`BatchInterface`).

    Every call raises ProviderError if there is no key or the package `anthropic` is not installed.
    """

    name = "anthropic"
    limits = LIMITS

    def __init__(self, model: str, effort: str | None = None, base_url: str | None = None) -> None:
        self.model, self._effort, self._base_url = model, effort, base_url
        self.key = Key(self.name)

    @cached_property
    def _client(self) -> "anthropic.Anthropic":
        try:
            import anthropic
        except ImportError:
            raise ProviderError("the package anthropic is not installed; pip install 'monosem[explain]'") from None
        # the SDK must repeat nothing by itself: creating a batch twice is paying twice
        return anthropic.Anthropic(api_key=self.key.reveal(), base_url=self._base_url, max_retries=0, timeout=SECONDS)

    def close(self) -> None:
        if "_client" in vars(self):  # nothing was sent, nothing is open
            self._client.close()

    def line(self, request: Request) -> bytes:
        return messages.batch_line(request, self.model, self._effort)

    def outcome(self, line: dict[str, Any]) -> Outcome:
        return messages.outcome(line, self.model)

    def newest(self) -> str | None:
        return next((batch.id for batch in self._client.messages.batches.list(limit=1)), None)

    def since(self, newest: str | None) -> list[Batch]:
        found = []
        for batch in self._client.messages.batches.list(limit=100):  # the newest first
            if batch.id == newest:
                break
            found.append(_read(batch))
        return found

    def upload(self, requests: Path) -> str:  # noqa: ARG002 - the requests are the body of `create`
        return ""

    def create(self, requests: Path, uploaded: str, label: str) -> str:  # noqa: ARG002 - Anthropic keeps neither
        from anthropic.types.messages import MessageBatch

        return self._client.post(
            "/v1/messages/batches",
            cast_to=MessageBatch,
            content=_body(requests),
            options={"headers": {"Content-Type": "application/json", "Content-Length": str(_size(requests))}},
        ).id

    def look(self, batch: str) -> Batch:
        found = self._client.messages.batches.retrieve(batch)
        if found.archived_at is not None:
            raise Fault(404, None, f"its results were archived on {found.archived_at:%Y-%m-%d}")
        return _read(found)

    def results(self, batch: str) -> list[Results]:
        return [Results("", batch, self.look(batch).count)]

    def download(self, source: str) -> Iterator[bytes]:
        with self._client.messages.batches.with_streaming_response.results(source) as response:
            yield from response.iter_bytes()

    def belongs(self, batch: Batch, ids: set[str], label: str) -> Verdict:  # noqa: ARG002 - Anthropic keeps no labels
        if batch.count != len(ids):
            return "another"
        if not batch.ended:
            return "not known yet"
        with self._client.messages.batches.with_streaming_response.results(batch.id) as response:
            first = next(iter(response.iter_lines()))
        return "ours" if json.loads(first)["custom_id"] in ids else "another"


def _read(batch: Any) -> Batch:
    counts = batch.request_counts
    total = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
    return Batch(batch.id, batch.processing_status == "ended", total, None)


def _size(requests: Path) -> int:
    """Bytes of the request's body: each line's end becomes a comma, but for the last."""
    return requests.stat().st_size - 1 + len(b'{"requests":[' + b"]}")


def _body(requests: Path) -> Iterator[bytes]:
    """The request's body, read from the file as it is sent: a full batch never stands in memory."""
    yield b'{"requests":['
    separator = b""
    with requests.open("rb") as file:
        for line in file:
            yield separator + line.rstrip(b"\n")
            separator = b","
    yield b"]}"
