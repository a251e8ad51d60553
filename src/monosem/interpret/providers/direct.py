"""Chunks that are answered while one waits: one request after the other, each answer on the disk when it is there.

A `Respondent` answers lines; what it answers is appended to `results/N.jsonl`, so that an interrupted chunk goes on
after the last answer. A request that was asked and whose answer never came may have been paid for: it is counted.
"""

import json
import os
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from monosem.interpret.providers.book import Book, Chunk, Limits
from monosem.interpret.providers.carrier import check_ids, keep, read_lines
from monosem.interpret.providers.protocol import Outcome, Request

LIMITS = Limits(requests=10_000, bytes=200_000_000)


class Journal:
    """The raw results of one chunk while it is answered. Threads may share it.

    Besides answers there are notes: `{"custom_id", "note": "asked"}` before somebody is asked, and "failed" when the
    server said that it did nothing. A line that was being written when the process died is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self.answered: set[str] = set()
        self._open: Counter[str] = Counter()
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
            for line in read_lines(path):
                self._take(line)

    @property
    def unseen(self) -> int:
        """How often somebody was asked, and what became of it is not known."""
        return sum(self._open.values())

    def append(self, line: dict[str, Any]) -> None:
        """Write a line; it is on the disk when this returns."""
        text = json.dumps(line, ensure_ascii=False) + "\n"
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        id_, note = line["custom_id"], line.get("note")
        if note == "asked":
            self._open[id_] += 1
        elif note == "failed":
            self._open[id_] -= 1
        else:
            self.answered.add(id_)
            if self._open[id_] and line["response"]["status_code"] == 200:
                self._open[id_] -= 1


class Respondent(Protocol):
    """Answers lines as they are sent, with lines as a batch's results have them."""

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def context(self) -> int | None: ...

    def close(self) -> None: ...

    def line(self, request: Request) -> bytes: ...

    def outcome(self, line: dict[str, Any]) -> Outcome: ...

    def prompt_tokens(self, request: Request) -> int: ...

    def respond(self, lines: Sequence[dict[str, Any]], journal: Journal) -> None:
        """Append an answer to each line, an error where there is none.

        Raises:
            ProviderError: nobody can be asked at all.
        """
        ...


class DirectCarrier:
    """Carries chunks to a respondent (`Carrier`)."""

    def __init__(self, respondent: Respondent, limits: Limits) -> None:
        self._respondent, self.limits = respondent, limits
        self.name, self.model, self.context = respondent.name, respondent.model, respondent.context
        self.line, self.outcome = respondent.line, respondent.outcome
        self.prompt_tokens, self.close = respondent.prompt_tokens, respondent.close

    def send(self, book: Book, chunk: Chunk) -> None:
        requests, name = book.requests(chunk), f"{chunk.name}.jsonl"
        journal = Journal(book.results(name))
        check_ids(journal.path, journal.answered, set(book.ids(chunk)), chunk)
        if chunk.state == "planned":
            book.record("intent", chunk=chunk.name)
        with requests.open("rb") as file:
            open_ = [line for line in map(json.loads, file) if line["custom_id"] not in journal.answered]
        self._respondent.respond(open_, journal)
        keep(book, chunk, self, [name], unseen=journal.unseen)

    def look(self, book: Book, chunk: Chunk) -> None:
        """There is nobody to ask: what is answered is here."""

    def collect(self, book: Book, chunk: Chunk) -> bool:  # noqa: ARG002 - `send` brought the results
        return chunk.state == "fetched"
