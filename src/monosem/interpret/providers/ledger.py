"""The ledger: one line for everything that was about to happen with a provider, or has happened. Append-only.

Each line carries the digest of itself and the one before, so that a changed line shows; `ledger.head` beside it holds
a late digest, so that missing lines show. A line is on the disk before the step that follows it begins: whatever
moment a process dies at, the next one knows what may have been paid. Knows nothing of what the events mean.
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from monosem.errors import ProviderError

LEDGER, HEAD = "ledger.jsonl", "ledger.head"


class Event(NamedTuple):
    """One line."""

    kind: str
    at: float
    """Seconds since 1970."""
    info: dict[str, Any]


class Ledger:
    """The events of one folder.

    Args:
        folder: it holds `ledger.jsonl`, which begins to exist with the first event.

    Raises:
        ProviderError: lines were changed or are missing.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._head = folder / LEDGER, folder / HEAD
        self.events: list[Event] = []
        self._digests: list[str] = []
        kept = self._read()
        if self.path.exists() and self.path.stat().st_size > kept:
            os.truncate(self.path, kept)  # the last line was being written when the process died

    def append(self, kind: str, **info: Any) -> Event:
        """Record an event; it is on the disk when this returns."""
        event = Event(kind, round(time.time(), 3), info)
        digest = _digest(self._last, event)
        line = json.dumps({"event": kind, "at": event.at, **info, "digest": digest}) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._digests.append(digest)
        self.events.append(event)
        temporary = self._head.with_suffix(".tmp")
        temporary.write_text(f"{len(self.events)} {digest}\n", encoding="utf-8")
        temporary.replace(self._head)  # not synced: a head that is some lines behind does no harm
        return event

    @property
    def _last(self) -> str:
        return self._digests[-1] if self._digests else ""

    def _read(self) -> int:
        """Take up the whole lines; returns their bytes."""
        text = self.path.read_bytes() if self.path.exists() else b""
        whole = text.rfind(b"\n") + 1
        for number, line in enumerate(text[:whole].splitlines(), 1):
            try:
                data = json.loads(line)
                written = data.pop("digest")
                event = Event(data.pop("event"), data.pop("at"), data)
                matches = written == _digest(self._last, event)
            except (ValueError, KeyError, TypeError, AttributeError):
                matches, written, event = False, "", Event("", 0.0, {})
            if not matches:
                raise ProviderError(f"{self.path}: line {number} was edited; {_MEND}")
            self._digests.append(written)
            self.events.append(event)
        self._check_head()
        return whole

    def _check_head(self) -> None:
        """The head may be behind the lines, never before them."""
        known = self._head.read_text(encoding="utf-8").split() if self._head.exists() else []
        if known and known not in ([str(number), digest] for number, digest in enumerate(self._digests, 1)):
            raise ProviderError(f"{self.path}: lines are missing at its end; {_MEND}")


_MEND = "put the file back as it was: it says what has been paid for"


def _digest(before: str, event: Event) -> str:
    text = json.dumps([before, event.kind, event.at, event.info], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
