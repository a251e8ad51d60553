"""What a latent has to do with others and with words: neighbours, co-activation, n-grams; each where it is made."""

from pathlib import Path
from typing import Any, NamedTuple

from monosem.app.page.kept import Kept
from monosem.app.page.missing import command
from monosem.app.page.sorted_file import SortedFile

MOST = 8  # neighbours and partners of a card


class Relations(NamedTuple):
    """Of one latent; what is not there is empty."""

    neighbours: list[dict[str, Any]]
    """`neighbour`, `cosine` of the decoder rows; the nearest first."""
    partners: list[dict[str, Any]]
    """`partner`, `conditional`, `jaccard`, `pmi`, `count`; the best by Jaccard first."""
    ngrams: list[dict[str, Any]]
    """`text`, `place`, `share`, `corpus_share`; the most telling first."""
    groups: list[dict[str, Any]]
    """Of its example sentences: `share`, `words`; the largest first."""
    monosemanticity: float | None
    monosemanticity_random: float | None
    token_only: str | None
    """The one token that it fires on, whatever the context."""


class RelationFiles:
    """The folders `coactivation` and `groups` of a run."""

    def __init__(self, folder: Path) -> None:
        self._run = folder

        def kept(path: Path) -> Kept[SortedFile]:
            return Kept(path, lambda path: SortedFile(path, "latent"))

        self._cosines = kept(folder / "coactivation" / "cosines.parquet")
        self._partners = kept(folder / "coactivation" / "partners.parquet")
        self._groups = kept(folder / "groups" / "groups.parquet")

    def of(self, latent: int, missing: dict[str, str]) -> Relations:
        """Those of a latent; adds to `missing` what is not there, with the command that makes it.

        Raises:
            RunError: a file is damaged.
        """
        rows = {name: _rows(getattr(self, f"_{name}"), latent) for name in ("cosines", "partners", "groups")}
        if rows["cosines"] is None or rows["partners"] is None:
            missing["neighbours and co-activation"] = command(self._run, "coactivation")
        if rows["groups"] is None:
            missing["n-grams and groups of sentences"] = command(self._run, "groups")
        group = (rows["groups"] or [{}])[0]
        return Relations(
            (rows["cosines"] or [])[:MOST],
            (rows["partners"] or [])[:MOST],
            group.get("ngrams") or [],
            group.get("clusters") or [],
            group.get("monosemanticity"),
            group.get("monosemanticity_random"),
            group.get("token") if group.get("token_only") else None,
        )


def _rows(kept: Kept[SortedFile], latent: int) -> list[dict[str, Any]] | None:
    file = kept.get()
    return None if file is None else file.rows([latent]).to_pylist()
