"""What was read of a file, kept until the file changes: a page asks for the same footers and indices again."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """A file and what `read` makes of it. Threads that ask at once wait for one reading.

    Args:
        read: takes the path; what it raises is raised by `get`, and nothing is kept.
    """

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self.path, self._read = path, read
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._value: T | None = None

    def get(self) -> T | None:
        """What the file holds now; None where there is none."""
        with self._lock:
            try:
                stat = self.path.stat()
            except FileNotFoundError:
                self._stamp = self._value = None
                return None
            stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if stamp != self._stamp:
                self._value = self._read(self.path)
                self._stamp = stamp
            return self._value
