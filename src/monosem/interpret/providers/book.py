"""The folder of what is asked: requests in chunks, what became of each, raw results. All of it is kept.

`requests/N.jsonl` holds a chunk's requests as they are sent, `results/N.jsonl` what came back, as it came; the ledger
says how far each chunk is. A request whose id stands in a chunk is never planned again. Knows no provider.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from monosem.atomic import atomic_path, remove_leftovers, sha256
from monosem.errors import ProviderError
from monosem.interpret.providers.ledger import Ledger
from monosem.interpret.providers.protocol import Usage

State = Literal["planned", "sending", "sent", "ended", "fetched", "lost"]
"""`sending`: it was about to be sent, and whether that happened is not known."""
ID = re.compile(rb'"custom_id": ?"([A-Za-z0-9_-]{1,64})"')


class Limits(NamedTuple):
    """What a provider takes in one batch."""

    requests: int
    bytes: int


class Line(NamedTuple):
    """One request as it is sent."""

    id: str
    text: bytes
    """One JSON object, without the line's end."""
    most: Usage
    """The most that it can use."""


@dataclass
class Chunk:
    """Requests that are sent together."""

    name: str
    count: int
    bytes: int
    sha256: str
    most: Usage
    """The most that it can use."""
    state: State = "planned"
    batch: str = ""
    """The provider's name for it."""
    newest: str | None = None
    """The newest batch that the provider had when this one was about to be sent."""
    uploaded: str = ""
    """The provider's name for its file of requests."""
    since: float = 0.0
    """When it was about to be sent, in seconds since 1970."""
    files: dict[str, str] = field(default_factory=dict)
    """Results: name below `results/` and sha256."""
    used: Usage = field(default_factory=Usage)
    unseen: int = 0
    """Requests whose answer was cut off; they may have been paid for."""


class Book:
    """The chunks of one folder.

    Args:
        folder: holds `ledger.jsonl`, `requests/`, `results/`.
        owner: digest of what asks; results that another one asked for are told by it.

    Raises:
        ProviderError: the ledger was edited, or belongs to another owner.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self.folder, self.owner = folder, owner
        self.ledger = Ledger(folder)
        self.chunks: dict[str, Chunk] = {}
        for event in self.ledger.events:
            self._take(event.kind, event.at, event.info)

    def record(self, kind: str, **info: Any) -> None:
        """Write an event down, then act on it."""
        if not self.ledger.events:
            self.ledger.append("opened", owner=self.owner)
        event = self.ledger.append(kind, **info)
        self._take(event.kind, event.at, event.info)

    def happened(self, kind: str) -> list[dict[str, Any]]:
        """What was recorded with the events of one kind."""
        return [event.info for event in self.ledger.events if event.kind == kind]

    def requests(self, chunk: Chunk) -> Path:
        """The file of a chunk's requests.

        Raises:
            ProviderError: it is not the file that was planned.
        """
        path = self.folder / "requests" / f"{chunk.name}.jsonl"
        if not path.exists() or sha256(path) != chunk.sha256:
            raise ProviderError(f"{path}: missing or not what was planned; put the file back as it was")
        return path

    def results(self, name: str) -> Path:
        """Where raw results lie."""
        path = self.folder / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def ids(self, chunk: Chunk) -> list[str]:
        """The ids of a chunk's requests, in order."""
        return list(read_ids(self.folder / "requests" / f"{chunk.name}.jsonl"))

    def plan(self, lines: Iterable[Line], limits: Limits) -> int:
        """Write the requests that are not there yet in chunks within `limits`; returns how many those are.

        Streams: memory does not grow with the requests but for their ids.
        """
        known = {id_ for chunk in self.chunks.values() for id_ in self.ids(chunk)}
        fresh = iter(line for line in lines if line.id not in known)
        folder = self.folder / "requests"
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        first, planned = next(fresh, None), 0
        while first is not None:
            name = f"{len(self.chunks):05d}"
            path = folder / f"{name}.jsonl"
            written = _Written(limits)
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                while first is not None and written.takes(first):
                    file.write(first.text + b"\n")
                    first = next(fresh, None)
            planned += written.count
            self.record(
                "planned",
                chunk=name,
                count=written.count,
                bytes=written.bytes,
                sha256=sha256(path),
                most=vars(written.most),
            )
        return planned

    def _take(self, kind: str, at: float, info: dict[str, Any]) -> None:
        if kind == "opened":
            if info["owner"] != self.owner:
                raise ProviderError(
                    f"{self.ledger.path}: belongs to another run or recipe ({info['owner']}, here {self.owner}); "
                    f"put back this run's own, or take the folder away"
                )
        elif kind == "planned":
            most = Usage(**info["most"])
            name = info["chunk"]
            self.chunks[name] = Chunk(name, info["count"], info["bytes"], info["sha256"], most)
        elif "chunk" in info:
            _advance(self.chunks[info["chunk"]], kind, at, info)


def _advance(chunk: Chunk, kind: str, at: float, info: dict[str, Any]) -> None:
    """What an event makes of its chunk."""
    match kind:
        case "intent":
            chunk.state, chunk.newest, chunk.since = "sending", info.get("newest"), at
        case "uploaded":
            chunk.uploaded = info["file"]
        case "created":
            chunk.state, chunk.batch = "sent", info["batch"]
        case "rejected":
            chunk.state, chunk.uploaded = "planned", ""
        case "ended":
            chunk.state = "ended"
        case "fetched":
            chunk.state, chunk.files = "fetched", info["files"]
            chunk.used, chunk.unseen = Usage(**info["used"]), info.get("unseen", 0)
        case "lost":
            chunk.state = "lost"


class _Written:
    """How much of a chunk is filled."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.count, self.bytes, self.most = 0, 0, Usage()

    def takes(self, line: Line) -> bool:
        """Count the line in if it still fits.

        Raises:
            ProviderError: it is too large for any chunk.
        """
        size = len(line.text) + 1
        if size > self._limits.bytes:
            raise ProviderError(
                f"request {line.id} has {size:,} bytes, a batch takes {self._limits.bytes:,}; lower explain.examples"
            )
        if self.count == self._limits.requests or self.bytes + size > self._limits.bytes:
            return False
        self.count, self.bytes, self.most = self.count + 1, self.bytes + size, self.most + line.most
        return True


def read_ids(path: Path) -> Iterator[str]:
    """The ids of a file of requests, in order, without parsing the rest of its lines."""
    with path.open("rb") as file:
        for line in file:
            found = ID.match(line, 1)
            assert found, f"{path}: a line that does not begin with its id"
            yield found[1].decode()
