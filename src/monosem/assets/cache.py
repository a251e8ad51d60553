"""The folder of fetched files, and the digest of what lies on this machine."""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from monosem.atomic import sha256, write_text
from monosem.progress import note


def cache_folder() -> Path:
    """Folder of fetched files: `MONOSEM_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("MONOSEM_CACHE") or platformdirs.user_cache_dir("monosem", appauthor=False))


def digest(path: Path) -> str:
    """Digest of a file's content, or of a folder's files and their names.

    A file is read once: its digest is kept in the cache under its path, size and time of change.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        lines = [f"{file.relative_to(path).as_posix()}\t{digest(file)}\n" for file in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    status = path.stat()
    identity = f"{path.resolve()}\t{status.st_size}\t{status.st_mtime_ns}\t{status.st_ino}"
    memory = cache_folder() / "digests" / hashlib.sha256(identity.encode()).hexdigest()
    with contextlib.suppress(FileNotFoundError):
        return memory.read_text(encoding="ascii")
    found = sha256(path)
    memory.parent.mkdir(parents=True, exist_ok=True)
    write_text(memory, found)
    return found


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[Path]:
    """Hold `folder` against other processes; yields an empty folder beside it that is gone afterwards.

    What a killed process left there goes first: the lock says that nobody uses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(folder.name + ".partial")
    with folder.with_name(folder.name + ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"  waiting for another process that fetches {folder.name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
