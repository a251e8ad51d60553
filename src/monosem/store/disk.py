"""Room on the disk: asked for before a stage writes, and named when it ends in the middle."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from monosem.errors import StoreError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
SPARE_BYTES = 64 << 20  # left for manifests and other small files


def require_free(folder: Path, needed: int, what: str) -> None:
    """Check that `needed` bytes can be written below `folder`.

    Raises:
        StoreError: less is free.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed + SPARE_BYTES:
        raise StoreError(
            f"{folder}: {what} needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; "
            "free some space, or keep the runs on another disk"
        )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the folder where the disk or a quota is full; what was finished before stays and can be continued.

    Raises:
        OSError: with the number of the system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        message = "no room left on the disk; free some space and run the same command again, it goes on from here"
        raise OSError(error.errno, message, str(path.parent)) from error
