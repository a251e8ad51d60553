"""SAEs to and from other libraries, in the terminal: what `monosem export` and `monosem import` do and print."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monosem import progress
from monosem.errors import SaeError
from monosem.lm.hookpoints import HookPoint
from monosem.sae import files, formats
from monosem.sae.config import SaeConfig


class Place(NamedTuple):
    """Where an SAE belongs, as far as the user says."""

    model: str | None = None
    hook_point: str | None = None
    target_hook_point: str | None = None


def export(source: Path, format: formats.WriteFormat, out: Path, *, unit_rows: bool, as_json: bool) -> None:
    """Write the SAE in `source` for another library.

    Raises:
        SaeError: there is none, the library has no such SAE, or `out` holds other files.
    """
    with progress.progress(f"export {source}", 2, "steps") as advance:
        sae = files.load(source)
        advance(1)
        notes = formats.write(sae, out, format, unit_rows=unit_rows)
        advance(1)
    _show(out, f"written for {format}", sae.config, notes, {"format": format}, as_json=as_json)


def bring(source: Path, out: Path, k: int | None, place: Place, *, as_json: bool) -> None:
    """Read the SAE of another library in `source`, and save it as one of ours.

    Raises:
        SaeError: it cannot be read, or `out` holds other files.
        ModelError: a hook point has another form.
    """
    for name in (place.hook_point, place.target_hook_point):
        if name is not None:
            HookPoint.parse(name)
    _check_room(out)
    with progress.progress(f"import {source}", 2, "steps") as advance:
        imported = formats.read(source, k=k, **place._asdict())
        advance(1)
        files.save(imported.sae, out, {"imported_from": imported.format, "notes": list(imported.notes)})
        advance(1)
    config = imported.sae.config
    _show(out, f"read from {imported.format}", config, imported.notes, {"format": imported.format}, as_json=as_json)


def _check_room(out: Path) -> None:
    """Whatever else lies in `out` would be lost: `save` replaces the folder."""
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if there and not (there == {files.CONFIG, files.WEIGHTS} and formats.is_ours(out)):
        raise SaeError(f"{out}: holds other files ({', '.join(sorted(there)[:5])}); name a new folder")


def _show(
    out: Path, done: str, config: SaeConfig, notes: Sequence[str], more: dict[str, Any], *, as_json: bool
) -> None:
    if as_json:
        shape = {"sparsity": config.sparsity, "d": config.d, "n": config.n, "k": config.k}
        place = {"model": config.model, "hook_point": config.hook_point}
        print(json.dumps({"folder": str(out), **more, **shape, **place, "notes": list(notes)}))
        return
    for note in notes:
        print(f"note: {note}")
    kind = f"{config.sparsity} " + ("transcoder" if config.transcodes else "SAE")
    place = " of ".join(part for part in (config.hook_point, config.model) if part)
    print(f"{out}: {kind}, {config.n:,} latents, width {config.d:,}" + f", at {place}" * bool(place) + f"; {done}")
