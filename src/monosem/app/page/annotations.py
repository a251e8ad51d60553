"""What people say of latents, in a file of its own: `annotations.jsonl` in the run folder.

Every note is one line, appended and fsynced; nothing is ever rewritten, so what a machine explained and what was noted
before stay. The last line of a latent counts. A line torn by a crash is left out, and the next begins behind it.
"""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from monosem.errors import RunError, SaeError

ANNOTATIONS = "annotations.jsonl"
MOST_CHARACTERS = 2000
Rating = Literal["right", "partly", "wrong"]


class Annotation(NamedTuple):
    """What somebody says of a latent."""

    latent: int
    explanation: str | None
    """A better explanation; None: the machine's stands."""
    rating: Rating | None
    """Of the machine's explanation."""
    time: str
    """UTC, to the second."""


def read(path: Path) -> dict[int, Annotation]:
    """The last annotation of every latent that has one. `path`: of the file; none where it is not there."""
    found: dict[int, Annotation] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    for line in lines:
        try:
            row = json.loads(line)
            note = Annotation(row["latent"], row["explanation"], row["rating"], row["time"])
        except (ValueError, KeyError, TypeError):
            continue
        found[note.latent] = note
    return found


def add(path: Path, latent: int, explanation: str | None, rating: str | None) -> Annotation:
    """Append one annotation, whole or not at all; two processes may do so at once.

    Raises:
        SaeError: it says nothing, or too much, or the rating is not known.
        RunError: the file cannot be written.
    """
    text = (explanation or "").strip() or None
    if text is None and rating is None:
        raise SaeError("nothing to keep: write an explanation, or rate the one there is")
    if text is not None and len(text) > MOST_CHARACTERS:
        raise SaeError(f"the explanation has {len(text):,} characters; at most {MOST_CHARACTERS:,} are kept")
    if rating is not None and rating not in get_args(Rating):
        raise SaeError(f"rating {rating!r} is not known; expected {', '.join(get_args(Rating))}")
    note = Annotation(latent, text, rating, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))  # type: ignore[arg-type]
    line = json.dumps(note._asdict(), ensure_ascii=False) + "\n"
    try:
        _append(path, line.encode("utf-8", errors="replace"))
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; nothing was kept") from None
    return note


def _append(path: Path, line: bytes) -> None:
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        os.write(file.fileno(), line)
        os.fsync(file.fileno())
