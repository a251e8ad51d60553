"""OpenAI's Batch interface, through the official SDK: a file is uploaded, a batch made of it, two files come back.

A batch carries our label as metadata, so that it is known again at once. Answers are in its output file, requests that
failed, expired or were canceled in its error file.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.errors import ProviderError
from monosem.interpret.providers import completions
from monosem.interpret.providers.batches import Batch, RefusedBatch, Results, Verdict
from monosem.interpret.providers.book import Limits
from monosem.interpret.providers.keys import Key
from monosem.interpret.providers.protocol import Outcome, Request

if TYPE_CHECKING:
    import openai

LIMITS = Limits(requests=50_000, bytes=200_000_000)
SECONDS = 600.0  # an upload of a full file takes minutes
OVER = {"completed", "failed", "expired", "cancelled"}
LABEL = "monosem"


class OpenAIBatches:
    """Batches of one model (`BatchInterface`).

    Every call raises ProviderError if there is no key or the package `openai` is not installed.
    """

    name = "openai"
    limits = LIMITS

    def __init__(self, model: str, effort: str | None = None, base_url: str | None = None) -> None:
        self.model, self._effort, self._base_url = model, effort, base_url
        self.key = Key(self.name)

    @cached_property
    def _client(self) -> "openai.OpenAI":
        try:
            import openai
        except ImportError:
            raise ProviderError("the package openai is not installed; pip install 'monosem[explain]'") from None
        # the SDK must repeat nothing by itself: creating a batch twice is paying twice
        return openai.OpenAI(api_key=self.key.reveal(), base_url=self._base_url, max_retries=0, timeout=SECONDS)

    def close(self) -> None:
        if "_client" in vars(self):  # nothing was sent, nothing is open
            self._client.close()

    def line(self, request: Request) -> bytes:
        return completions.batch_line(request, self.model, self._effort, "max_completion_tokens")

    def outcome(self, line: dict[str, Any]) -> Outcome:
        return completions.outcome(line, self.model)

    def newest(self) -> str | None:
        return next((batch.id for batch in self._client.batches.list(limit=1)), None)

    def since(self, newest: str | None) -> list[Batch]:
        found = []
        for batch in self._client.batches.list(limit=100):  # the newest first
            if batch.id == newest:
                break
            found.append(_read(batch))
        return found

    def upload(self, requests: Path) -> str:
        with requests.open("rb") as file:
            return self._client.files.create(file=(requests.name, file), purpose="batch").id

    def create(self, requests: Path, uploaded: str, label: str) -> str:  # noqa: ARG002 - it is uploaded already
        return self._client.batches.create(
            input_file_id=uploaded,
            endpoint=completions.ENDPOINT,
            completion_window="24h",
            metadata={LABEL: label},
        ).id

    def look(self, batch: str) -> Batch:
        return _read(self._client.batches.retrieve(batch))

    def results(self, batch: str) -> list[Results]:
        found = self._client.batches.retrieve(batch)
        if found.status == "failed":
            raise RefusedBatch(_errors(found))
        counts = found.request_counts
        files = []
        if found.output_file_id:
            files.append(Results("", found.output_file_id, counts.completed if counts else None))
        if found.error_file_id:
            files.append(Results(".errors", found.error_file_id, None))
        return files

    def download(self, source: str) -> Iterator[bytes]:
        with self._client.files.with_streaming_response.content(source) as response:
            yield from response.iter_bytes()

    def belongs(self, batch: Batch, ids: set[str], label: str) -> Verdict:  # noqa: ARG002 - the label says it all
        return "ours" if batch.label == label else "another"


def _read(batch: Any) -> Batch:
    counts = batch.request_counts
    return Batch(batch.id, batch.status in OVER, counts.total if counts else None, (batch.metadata or {}).get(LABEL))


def _errors(batch: Any) -> str:
    told = [f"{error.code}: {error.message}" for error in (batch.errors.data if batch.errors else None) or []]
    return " ".join("; ".join(told[:3]).split())[:300] or "no reason given"
