"""Room on the disk, asked for before a stage writes."""

import shutil
from pathlib import Path

from monosem.errors import StoreError

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


def size_text(size: float) -> str:
    """Bytes for a reader."""
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
