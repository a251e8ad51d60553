"""An `activations` folder of known rows, without a language model."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from monosem.run import Stage
from monosem.store import shards
from monosem.store.encoding import Format
from monosem.store.shards import Rows


class Made(NamedTuple):
    """A store and what it holds."""

    stage: Stage
    rows: Rows
    """Of all shards, as they are read."""


def rows_of(sentences: int, d: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Rows:
    """Sentences of 1 to 12 tokens; the token id is the number of the row, so that every row is known by it."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 13, sentences)
    total = int(lengths.sum())
    sentence = np.repeat(np.arange(sentences), lengths)
    position = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    spread, centre = random.uniform(0.5, 3, d), random.uniform(-5, 5, d)
    x = random.normal(size=(total, d)) * spread + centre
    return Rows(
        torch.from_numpy(x).to(dtype),
        torch.from_numpy(sentence),
        torch.from_numpy(position).int(),
        torch.arange(total).int(),
    )


def make_store(
    run: Path, sentences: int = 600, d: int = 24, per_shard: int = 150, dtype: torch.dtype = torch.bfloat16
) -> Made:
    """`activations/1.resid_post` in a run folder, whole sentences in each shard."""
    rows = rows_of(sentences, d)
    form = Format(dtype, rows.activations.float().mean(dim=0))
    stored = form.encode(rows.activations)
    stage = Stage(run / "activations" / "1.resid_post", "activations", {"made": "for a test"}, {})
    stage.begin()
    for number, start in enumerate(range(0, sentences, per_shard)):
        chosen = (rows.sentence >= start) & (rows.sentence < start + per_shard)
        name = f"activations-{number:05d}.safetensors"
        origin = {field: tensor[chosen] for field, tensor in rows._asdict().items()}
        part = type(stored)(*(tensor[chosen] for tensor in stored))
        shards.write(stage.path / name, shards.shard_tensors(part, origin, form))
        stage.add_shard(name, int(chosen.sum()))
    stage.finish(rows=len(rows.sentence), d=d, norm_threshold=123.0)
    return Made(stage, rows._replace(activations=form.decode(stored)))


def read_all(folder: Path, prefix: str) -> Rows:
    """All rows of the final shards whose names begin with `prefix`."""
    parts = [shards.read(path) for path in shards.open_shards(folder, prefix).paths]
    return Rows(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def in_order(rows: Rows) -> list[Tensor]:
    """The tensors sorted by the number of the row."""
    return [tensor[rows.token.argsort()] for tensor in rows]
