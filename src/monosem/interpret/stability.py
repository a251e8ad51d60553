"""Whether other seeds found a latent again: `seeds/` of a run as cards read it. Knows no SAE and measures nothing.

A run that was never compared has nothing to show, and figures of an SAE that has been trained anew since do not count.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from monosem.interpret import tables
from monosem.run import read_manifest

FOLDER = "seeds"
SAME = 0.7
"""Cosine of two decoder rows from which they count as one latent: the threshold of Paulo and Belrose (arXiv
2501.16615). They ask it of encoder rows too and pair latents one to one, in n^3 steps: fewer are shared by that."""


class Stability(NamedTuple):
    """One latent beside SAEs that differ from its own in the seed alone."""

    cosines: list[float]
    """The largest cosine of its decoder row to those of each other SAE."""

    @property
    def found(self) -> int:
        """In how many of them it is."""
        return sum(cosine >= SAME for cosine in self.cosines)

    @property
    def warning(self) -> str | None:
        """What a card says where fewer than half of them have it."""
        if 2 * self.found >= len(self.cosines):
            return None
        several = len(self.cosines) > 1
        who = f"{self.found} of {len(self.cosines)} other seeds have such a" if several else "another seed has no such"
        return f"seed-unstable: {who} latent (largest cosine {max(self.cosines):.2f}, from {SAME:g} on it is the same)"


def current(run_folder: Path) -> Path | None:
    """The run's table, where it is whole and of the SAE that is there now."""
    made = read_manifest(run_folder / FOLDER)
    if made is None or not made.complete:
        return None
    stage = next((name for name in ("sae", "finetune") if name in made.inputs), "sae")
    trained = read_manifest(run_folder / stage)
    fits = trained is not None and made.inputs.get(stage) == trained.fingerprint
    return run_folder / FOLDER / tables.LATENTS if fits else None


def of(run_folder: Path, latents: Sequence[int]) -> dict[int, Stability]:
    """The stability of some latents; none where the run has not been compared.

    Raises:
        RunError: the file is damaged.
    """
    path = current(run_folder)
    rows = [] if path is None else tables.read_sorted(path, "latent", latents).to_pylist()
    return {row["latent"]: Stability(row["cosines"]) for row in rows}
