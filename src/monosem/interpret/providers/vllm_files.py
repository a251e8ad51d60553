"""Files for `vllm run-batch`: requests go out as a file, answers come back as a file; somebody runs vLLM in between.

Works where the machine with the GPUs has no network, and no server has to run.
"""

from typing import Any

from monosem.interpret.providers import completions
from monosem.interpret.providers.book import Book, Chunk, Limits
from monosem.interpret.providers.carrier import check_ids, estimated_tokens, keep, read_results
from monosem.interpret.providers.protocol import Outcome, Request

LIMITS = Limits(requests=50_000, bytes=1_000_000_000)


class VllmFiles:
    """Hands chunks over as files (`Carrier`)."""

    name = "vllm"

    def __init__(self, model: str, limits: Limits, context: int | None, effort: str | None = None) -> None:
        self.model, self.limits, self.context, self._effort = model, limits, context, effort
        self.prompt_tokens = estimated_tokens

    def close(self) -> None:
        """Nothing is open."""

    def line(self, request: Request) -> bytes:
        return completions.batch_line(request, self.model, self._effort, "max_completion_tokens")

    def outcome(self, line: dict[str, Any]) -> Outcome:
        return completions.outcome(line, self.model)

    def send(self, book: Book, chunk: Chunk) -> None:
        book.requests(chunk)
        book.results(f"{chunk.name}.jsonl")
        if chunk.state == "planned":
            book.record("created", chunk=chunk.name, batch=self.command(book, chunk))

    def look(self, book: Book, chunk: Chunk) -> None:
        """There is nobody to ask: the file is there, or it is not."""

    def collect(self, book: Book, chunk: Chunk) -> bool:
        """Take up the file of answers, once it is there and whole."""
        path = book.results(f"{chunk.name}.jsonl")
        if chunk.state == "sent" and path.exists():
            answered = {line["custom_id"] for line in read_results([path])}
            check_ids(path, answered, set(book.ids(chunk)), chunk)
            if len(answered) >= chunk.count:
                keep(book, chunk, self, [path.name])
        return chunk.state == "fetched"

    def command(self, book: Book, chunk: Chunk) -> str:
        """What brings the answers."""
        requests = book.folder / "requests" / f"{chunk.name}.jsonl"
        return f"vllm run-batch -i {requests} -o {book.results(f'{chunk.name}.jsonl')} --model {self.model}"
