"""Files behind an fsspec URL (s3://, gs://, hf://, file://, memory://), with patience: what fails is tried again.

Knows nothing of stores.
"""

import time
from collections.abc import Callable
from typing import Any

import fsspec

from monosem.errors import StoreError
from monosem.progress import note

TRIES = 6
FIRST_WAIT = 1.0  # seconds; twice as long after each failure
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, StoreError, MemoryError)


def is_url(place: str) -> bool:
    """Whether a place is an fsspec URL and no path."""
    return "://" in place


class Far:
    """A folder behind a URL."""

    def __init__(self, url: str) -> None:
        """Open the file system; nothing is read.

        Raises:
            StoreError: no such protocol, or its package is missing.
        """
        self.url = url.rstrip("/")
        try:
            self.system, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise StoreError(f"{url}: {_line(error)}") from None

    def path(self, name: str) -> str:
        """What the file system calls a file."""
        return f"{self._root.rstrip('/')}/{name}"

    def size(self, name: str) -> int | None:
        """Bytes of a file; None: there is none."""

        def ask() -> int | None:
            self.system.invalidate_cache()
            return self.system.info(self.path(name))["size"] if self.system.exists(self.path(name)) else None

        return self.tried(name, ask)

    def read_text(self, name: str) -> str | None:
        """A small file; None: there is none."""

        def ask() -> str | None:
            try:
                return self.system.cat_file(self.path(name)).decode()
            except FileNotFoundError:
                return None

        return self.tried(name, ask)

    def tried(self, name: str, work: Callable[[], Any]) -> Any:
        """The result of `work`, which is done again after a failure that may pass.

        Raises:
            StoreError: it failed each time; names the file.
        """
        wait = FIRST_WAIT
        for _ in range(TRIES - 1):
            try:
                return work()
            except FINAL:
                raise
            except Exception as error:
                note(f"  {self.url}/{name}: {_line(error)}; trying again in {wait:.0f} s")
            time.sleep(wait)
            wait *= 2
        try:
            return work()
        except FINAL:
            raise
        except Exception as error:
            raise StoreError(
                f"{self.url}/{name}: failed {TRIES} times ({_line(error)}); "
                "give the same command again: it goes on from here"
            ) from error


def _line(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
