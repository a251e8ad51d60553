"""How much of an SAE other seeds find again: each latent's nearest in SAEs that differ from its own in the seed alone.

Flow: the other runs are named, or found beside the run and in its sweep; every decoder row is compared with all rows of
every other SAE, and `seeds/latents.parquet` keeps the largest cosines. Made anew whenever one of the SAEs is another.
The language model does not run. What the figures mean for one latent is said in `stability`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from monosem import progress
from monosem.atomic import atomic_path
from monosem.errors import MonosemError, RunError
from monosem.interpret import tables
from monosem.interpret.stability import FOLDER, SAME
from monosem.recipe import Recipe
from monosem.run import Manifest, Run, Stage, read_manifest
from monosem.sae import files
from monosem.train.settings import device_of, seed_of

ROWS = 1024  # latents that are compared with all others at once
MIXTURES = 1000  # random directions of the baseline
SECTIONS = ("model", "corpus", "capture", "prepare", "sae", "train", "finetune")
SEEDS = ("seed", "order_seed")


class Other(NamedTuple):
    """A run that differs in its seed alone."""

    run: Run
    made: Manifest
    """Of its SAE."""
    name: str
    """Its folder as seen from the run's."""


def make(run: Run, named: Sequence[Path] = ()) -> Stage:
    """Write `seeds/latents.parquet`.

    Args:
        named: the folders of other runs; none: those that `beside` finds.

    Raises:
        RunError: a run has no SAE, a named one differs in more than its seed, or there is none.
    """
    own = _trained(run)
    others = [_named(run, path) for path in named] if named else beside(run)
    if not others:
        raise RunError(
            f"{run.path}: no run beside it or in its sweep differs in the seed alone; train one with: "
            f"monosem sweep {run.path} --seed {seed_of(run.recipe)},{seed_of(run.recipe) + 1}"
        )
    inputs = {_stage(run.recipe): own.fingerprint, **{other.name: other.made.fingerprint for other in others}}
    with run.lock():
        found = read_manifest(run.folder(FOLDER))
        if found is not None and found.inputs != inputs:
            run.remove([FOLDER])
        stage = run.stage(run.folder(FOLDER), {"seed": run.recipe.seed}, inputs)
        if not stage.complete:
            _write(run, stage, others)
    return stage


def beside(run: Run) -> list[Other]:
    """The runs in its sweep, and those in the folder that it lies in, that differ from it in the seed alone."""
    parent = run.path.resolve().parent
    around = [*run.path.glob("sweep/*/"), *parent.glob("*/"), *([parent.parent] if parent.name == "sweep" else [])]
    found: dict[Path, Other] = {}
    for path in sorted(around):
        try:
            other = Run.open(path)
            if difference(run.recipe, other.recipe) is None:
                found.setdefault(path.resolve(), _opened(run, other))
        except MonosemError:
            continue  # no run, or one that is not trained yet
    return list(found.values())


def difference(one: Recipe, other: Recipe) -> str | None:
    """Why two recipes do not make SAEs that differ in the seed alone; None: they do. The seed of a whole run may choose
    its documents too."""
    for section in SECTIONS:
        mine, theirs = _without_seeds(one, section), _without_seeds(other, section)
        for key in sorted({*mine, *theirs}):
            if mine.get(key) != theirs.get(key):
                return f"{section}.{key} is {theirs.get(key)!r}, not {mine.get(key)!r}"
    return "it has the same seed" if seed_of(one) == seed_of(other) else None


def nearest(rows: Tensor, others: Tensor) -> Tensor:
    """[m] the largest cosine of each of `rows` [m, d] to those of `others` [n, d]."""
    unit = torch.nn.functional.normalize(others.float(), dim=1)
    parts = torch.nn.functional.normalize(rows.float(), dim=1).split(ROWS)
    return torch.cat([(part @ unit.T).amax(1) for part in parts])


def mixtures(W_dec: Tensor, count: int, seed: int) -> Tensor:
    """[count, d] random directions with the covariance of the decoder's rows: what no training has sharpened."""
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(count, len(W_dec), generator=drawn).to(W_dec.device) @ W_dec


def _write(run: Run, stage: Stage, others: Sequence[Other]) -> None:
    stage.begin()
    device = device_of(run.recipe)
    W_dec = files.load(run.sae_folder, device).W_dec.detach()
    random = mixtures(W_dec, MIXTURES, run.recipe.seed)
    cosines, told = [], {}
    with progress.progress("seeds", len(W_dec) * len(others), "latents") as advance:
        for other in others:
            theirs = files.load(other.run.sae_folder, device).W_dec.detach()
            found = nearest(W_dec, theirs)
            cosines.append(found.cpu().numpy())
            told[other.name] = {"seed": seed_of(other.run.recipe)} | _summary(found, nearest(random, theirs))
            advance(len(W_dec))
    table = pa.table(
        {
            "latent": np.arange(len(W_dec), dtype=np.int32),
            "cosines": pa.array(list(np.stack(cosines, axis=1)), pa.list_(pa.float32())),
        }
    )
    with atomic_path(stage.path / tables.LATENTS) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=tables.ROWS_IN_GROUP)
    stage.add_shard(tables.LATENTS, len(table))
    stage.finish(latents=len(table), others=told)


def _summary(cosines: Tensor, random: Tensor) -> dict[str, float]:
    return {
        "mean_cosine": float(cosines.mean()),
        "shared": float((cosines >= SAME).float().mean()),
        "mean_cosine_random": float(random.mean()),
        "shared_random": float((random >= SAME).float().mean()),
    }


def _named(run: Run, path: Path) -> Other:
    other = Run.open(path)
    why = difference(run.recipe, other.recipe)
    if why is not None:
        raise RunError(f"{path}: expected a run that differs from {run.path} in the seed alone, but {why}")
    return _opened(run, other)


def _opened(run: Run, other: Run) -> Other:
    return Other(other, _trained(other), os.path.relpath(other.path.resolve(), run.path.resolve()))


def _trained(run: Run) -> Manifest:
    made = read_manifest(run.folder(_stage(run.recipe)))
    if made is None or not made.complete:
        raise RunError(f"{run.path}: has no trained SAE; make it with: monosem train {run.path}")
    return made


def _stage(recipe: Recipe) -> str:
    return "finetune" if recipe.finetune.wanted else "sae"


def _without_seeds(recipe: Recipe, section: str) -> Mapping[str, Any]:
    part = getattr(recipe, section).fingerprint_part()
    return {key: value for key, value in part.items() if key not in SEEDS}
