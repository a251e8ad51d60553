"""SAEs of other libraries: read into our model, and written from it.

    sae = formats.read("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71").sae
    formats.write(sae, "layers.20", "sparsify")

Codes and reconstructions are those of the other library, up to float32 rounding; what our model, or theirs, cannot
compute is an error that says why. `read` tells the format from the files. Knows no language model: places are names.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from monosem.atomic import atomic_folder
from monosem.errors import SaeError
from monosem.sae import files
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.formats import dictionary_learning, gemma_scope, llama_scope, openai, saelens, sparsify
from monosem.sae.formats.content import Settings
from monosem.sae.formats.plain import Lengths, Plain, assembled, spelled_out

__all__ = ["FORMATS", "Format", "Imported", "WriteFormat", "detect", "is_ours", "read", "write"]

WriteFormat = Literal["saelens", "sparsify", "dictionary_learning"]


class Format(NamedTuple):
    """One library's files."""

    name: str
    files: tuple[str, ...]
    found: Callable[[Path], bool]
    read: Callable[[Path], Plain]


FORMATS = {
    name: Format(name, module.FILES, module.found, module.read)
    for name, module in (
        ("llama_scope", llama_scope),
        ("saelens", saelens),
        ("sparsify", sparsify),
        ("dictionary_learning", dictionary_learning),
        ("gemma_scope", gemma_scope),
        ("openai", openai),
    )
}
"""By name, in the order in which folders are tried."""
WRITERS = {"saelens": saelens, "sparsify": sparsify, "dictionary_learning": dictionary_learning}


class Imported(NamedTuple):
    """An SAE that another library wrote."""

    sae: Autoencoder
    format: str
    notes: tuple[str, ...]
    """What to know about it, a line each."""


def detect(folder: str | Path) -> str:
    """The name of the format that a folder is in.

    Raises:
        SaeError: it is in none; the error lists what is there, and what is understood.
    """
    folder = Path(folder)
    if folder.is_file() and openai.found(folder):
        return "openai"
    if not folder.is_dir():
        raise SaeError(f"{folder}: no such folder; give the one that holds an SAE's files")
    if is_ours(folder):
        raise SaeError(f"{folder}: this is an SAE of monosem's already; load_sae({str(folder)!r}) reads it")
    for name, format_ in FORMATS.items():
        if format_.found(folder):
            return name
    raise SaeError(
        f"{folder}: no SAE of a known format; found: {_listing(folder)}; understood: "
        + ", ".join(f"{name} ({' + '.join(format_.files)})" for name, format_ in FORMATS.items())
    )


def is_ours(folder: Path) -> bool:
    """Whether the SAE in a folder is in monosem's own format."""
    return (folder / files.CONFIG).is_file() and "schema_version" in Settings.read(folder / files.CONFIG).values


def read(
    folder: str | Path,
    *,
    k: int | None = None,
    model: str | None = None,
    hook_point: str | None = None,
    target_hook_point: str | None = None,
) -> Imported:
    """Read an SAE that another library wrote.

    Args:
        folder: with its files; of OpenAI's, also the one file.
        k: active latents of an activation, where the files do not say (ReLU and JumpReLU): `evaluate` takes as many
            components for its baseline. Of TopK, it must be what they say.
        model, hook_point, target_hook_point: where it belongs, in the place of what the files say.

    Raises:
        SaeError: the format is not known, a file is damaged, or our model cannot compute what it says.
    """
    folder = Path(folder)
    name = detect(folder)
    plain = FORMATS[name].read(folder)
    if k is not None and plain.k is not None and k != plain.k and plain.sparsity in ("topk", "abstopk"):
        raise SaeError(f"{folder}: k = {k} was given, and its files say {plain.k}; leave k out")
    given = {"model": model, "hook_point": hook_point, "target_hook_point": target_hook_point}
    labels = dataclasses.replace(plain.labels, **{key: value for key, value in given.items() if value is not None})
    plain = dataclasses.replace(plain, k=plain.k if k is None else k, labels=labels)
    try:
        sae = assembled(plain)
    except SaeError as error:
        raise SaeError(f"{folder}: {error}") from None
    return Imported(sae, name, tuple(_notes(plain, sae)))


def write(sae: Autoencoder, folder: str | Path, format: WriteFormat, *, unit_rows: bool = False) -> tuple[str, ...]:
    """Write an SAE for another library; it appears whole or not at all, in the place of one that is there.

    `dataset` normalisation is folded into the weights. Codes stay what they are in monosem: decoder rows then have the
    norm that makes up for it, the same for all.

    Args:
        unit_rows: decoder rows of norm 1, which some benchmarks ask for; codes are in units of raw activations then.

    Returns:
        What to know about what was written, a line each.

    Raises:
        SaeError: the other library has no such SAE, or the folder holds other files.
    """
    if format not in get_args(WriteFormat):
        raise SaeError(f"format {format!r} is not known; expected {', '.join(get_args(WriteFormat))}")
    folder, writer = Path(folder), WRITERS[format]
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if there and not (there <= set(writer.FILES) and writer.found(folder)):
        raise SaeError(f"{folder}: holds other files ({', '.join(sorted(there)[:5])}); name a new folder")
    plain = spelled_out(sae)
    if unit_rows:
        plain = plain.with_unit_rows()
    writer.written_as(plain)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as temporary:
        notes = writer.write(plain, temporary)
    labels = plain.labels
    if labels.prefixes:
        notes.append("Matryoshka: the whole dictionary was written; each prefix of its latents is an SAE of its own")
    if labels.norm_threshold is not None:
        notes.append(
            f"activations with a norm over {labels.norm_threshold:.4g} (attention sinks, such as first tokens) were "
            "left out of its training: leave them out of what you measure"
        )
    return tuple(notes)


def _notes(plain: Plain, sae: Autoencoder) -> list[str]:
    lengths, notes = Lengths.of(plain.W_dec), []
    if not lengths.equal:
        norms = f"decoder rows have norms from {lengths.least:.4g} to {lengths.most:.4g}"
        folded = Lengths.of(sae.W_dec.detach()).unit
        notes.append(norms + ("; they are in the encoder now: codes are so many times as large" if folded else ""))
    if plain.layer:
        notes.append(saelens.LAYER_NOTE.replace("SAELens", "the other library"))
    if not plain.labels.hook_point:
        notes.append("the files do not say where it belongs in which model; give hook_point (--hook-point)")
    return notes


def _listing(folder: Path) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"
