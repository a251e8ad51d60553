"""Where a packed store is written: a folder of this machine, or an fsspec URL."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from monosem.atomic import atomic_path, write_text
from monosem.store.far import Far, is_url

Make = Callable[[], Iterable[bytes]]
Advance = Callable[[int], None]


class Target(Protocol):
    """A folder to write files into."""

    @property
    def name(self) -> str: ...

    def size(self, name: str) -> int | None:
        """Bytes of a file; None: there is none."""
        ...

    def read_text(self, name: str) -> str | None: ...

    def write_text(self, name: str, text: str) -> None: ...

    def write(self, name: str, make: Make, advance: Advance) -> None:
        """Write the bytes that `make()` gives, telling `advance` of each part; `make` is called anew to try again."""
        ...


def open_target(place: str) -> Target:
    """The target at a path or URL."""
    return UrlTarget(place) if is_url(place) else FolderTarget(Path(place))


class FolderTarget:
    """A folder of this machine: files appear whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder)

    def size(self, name: str) -> int | None:
        file = self.folder / name
        return file.stat().st_size if file.exists() else None

    def read_text(self, name: str) -> str | None:
        file = self.folder / name
        return file.read_text(encoding="utf-8") if file.exists() else None

    def write_text(self, name: str, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / name, text)

    def write(self, name: str, make: Make, advance: Advance) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.folder / name) as temporary, temporary.open("wb") as file:
            for part in make():
                file.write(part)
                advance(len(part))


class UrlTarget:
    """A folder behind a URL. A file that was cut off is shorter than it should be, so that it is written again."""

    def __init__(self, url: str) -> None:
        self._far = Far(url)
        self.name = self._far.url

    def size(self, name: str) -> int | None:
        return self._far.size(name)

    def read_text(self, name: str) -> str | None:
        return self._far.read_text(name)

    def write_text(self, name: str, text: str) -> None:
        self.write(name, lambda: [text.encode()], lambda _: None)

    def write(self, name: str, make: Make, advance: Advance) -> None:
        path, system = self._far.path(name), self._far.system

        def once() -> None:
            written = 0
            try:
                system.makedirs(path.rpartition("/")[0], exist_ok=True)
                with system.open(path, "wb") as file:
                    for part in make():
                        file.write(part)
                        advance(len(part))
                        written += len(part)
            except BaseException:
                advance(-written)
                raise

        self._far.tried(name, once)
