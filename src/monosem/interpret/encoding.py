"""The stage `codes`: every activation is encoded by the SAE once, and its codes are kept.

Flow: each part of the source, such as a shard of stored activations, becomes one file of codes, of the same sentences
in the same order; an interrupted stage goes on with the parts that are missing, and several ranks take one after the
other. What latents mean, when they fire and with whom is read from these files: they are a small part of the
activations' size, and nothing is encoded twice. Of language models only the source may know.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch

from monosem import capture, finetune
from monosem.errors import StoreError
from monosem.interpret.codes import Codes
from monosem.run import Run, Stage
from monosem.sae import files
from monosem.sae.autoencoder import Autoencoder
from monosem.store import shards

ENCODE_ROWS = 4096


class Source(Protocol):
    """Where activations come from, in parts of whole sentences."""

    d: int
    """Their width."""
    part_rows: list[int]
    """Activations of every part; estimates will do."""

    def read(self, numbers: Iterable[int]) -> Iterator[tuple[int, shards.Rows]]:
        """Parts by their numbers, in any order, each with its number."""
        ...


def open_stage(run: Run) -> Stage:
    """The stage's folder; writes nothing.

    Raises:
        RunError: its files were made with another recipe or SAE.
    """
    part = {"source": "live"} if run.recipe.train.source == "live" else {}
    inputs = [capture.open_stage(run, run.recipe.hook_point), finetune.sae_stage(run)]
    return run.stage(run.folder("codes"), part, inputs)


def make(run: Run, source: Source | None = None) -> Stage:
    """Write `codes-00000.safetensors` and so on.

    Args:
        source: None: the run's store.

    Raises:
        RunError: a stage that it reads is missing.
        StoreError: the SAE does not fit the activations, or these are damaged.
    """
    stage = open_stage(run)
    if stage.complete:
        return stage
    finetune.sae_stage(run).require()
    source = source or Stored(capture.open_stage(run, run.recipe.hook_point))
    encoder = _encoder(run, source.d)
    finished = {shard.name for shard in stage.begin(run.ranks)}
    names = [f"codes-{number:05d}.safetensors" for number in range(len(source.part_rows))]
    todo = [number for number, name in enumerate(names) if name not in finished]
    total = sum(source.part_rows)
    done = total - sum(source.part_rows[number] for number in todo)
    mine = (todo[claimed] for claimed in run.ranks.counter("codes").numbers(len(todo)))
    with run.ranks.progress("codes", total, "activations", done) as advance:
        for number, rows in source.read(mine):
            codes = encode(encoder, rows, advance)
            codes.save(stage.path / names[number], encoder.config.n)
            stage.add_shard(names[number], codes.rows, sentences=len(codes.sentence), active=len(codes.latent))
    made = stage.collect()
    stage.finish(
        n=encoder.config.n,
        rows=sum(shard.rows for shard in made),
        sentences=sum(shard.info["sentences"] for shard in made),
        active=sum(shard.info["active"] for shard in made),
    )
    return stage


def encode(encoder: Autoencoder, rows: shards.Rows, advance: Callable[[int], None] = lambda _: None) -> Codes:
    """The codes of a shard's activations."""
    active, latent, value = [], [], []
    for part in rows.activations.split(ENCODE_ROWS):
        codes = encoder.encode(part.to(encoder.W_enc.device))
        fires = codes.values != 0
        active.append(fires.sum(1, dtype=torch.int32).cpu().numpy())
        latent.append(codes.indices[fires].to(torch.int32).cpu().numpy())
        value.append(codes.values[fires].cpu().numpy())
        advance(len(part))
    sentence = rows.sentence.numpy()
    starts = np.flatnonzero(np.diff(sentence, prepend=sentence[:1] - 1))
    return Codes(
        sentence[starts],
        np.diff(starts, append=len(sentence)).astype(np.int32),
        rows.position.numpy(),
        rows.token.numpy(),
        np.concatenate([*active, np.zeros(0, np.int32)]),
        np.concatenate([*latent, np.zeros(0, np.int32)]),
        np.concatenate([*value, np.zeros(0, np.float32)]),
    )


class Stored:
    """The shards that capture wrote.

    Raises:
        RunError: it has not.
    """

    def __init__(self, activations: Stage) -> None:
        self.d: int = activations.require().manifest.counts["d"]
        store = shards.open_shards(activations.path)
        self._paths, self.part_rows = store.paths, [shard.rows for shard in store.shards]

    def read(self, numbers: Iterable[int]) -> Iterator[tuple[int, shards.Rows]]:
        """The next one is read while one is encoded."""
        with ThreadPoolExecutor(1) as pool:
            waiting: tuple[int, Future[shards.Rows]] | None = None
            for number in numbers:
                reading = pool.submit(shards.read, self._paths[number])
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = number, reading
            if waiting is not None:
                yield waiting[0], waiting[1].result()


def _encoder(run: Run, d: int) -> Autoencoder:
    device = run.ranks.device(run.recipe.train.device)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = files.load(run.sae_folder, device)
    if encoder.config.d != d:
        raise StoreError(
            f"{run.recipe.hook_point}: activations of width {d} do not fit an SAE of width {encoder.config.d}; "
            "train it on them"
        )
    return encoder
