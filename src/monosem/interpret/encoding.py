"""The stage `codes`: every stored activation is encoded by the SAE once, and its codes are kept.

Flow: each shard of activations becomes one file of codes, of the same sentences in the same order; an interrupted stage
goes on with the shards that are missing, and several ranks take one after the other. What latents mean, when they fire
and with whom is read from these files: they are a small part of the activations' size, and nothing is encoded twice.
The language model does not run.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from monosem import capture, finetune
from monosem.errors import StoreError
from monosem.interpret.codes import Codes
from monosem.run import Run, Stage
from monosem.sae import files
from monosem.sae.autoencoder import Autoencoder
from monosem.store import shards
from monosem.store.shard_file import Where

ENCODE_ROWS = 4096


def open_stage(run: Run) -> Stage:
    """The stage's folder; writes nothing.

    Raises:
        RunError: its files were made with another recipe or SAE.
    """
    return run.stage(run.folder("codes"), {}, [capture.open_stage(run, run.recipe.hook_point), finetune.sae_stage(run)])


def make(run: Run) -> Stage:
    """Write `codes-00000.safetensors` and so on.

    Raises:
        RunError: a stage that it reads is missing.
        StoreError: the SAE does not fit the activations, or these are damaged.
    """
    stage = open_stage(run)
    if stage.complete:
        return stage
    activations = capture.open_stage(run, run.recipe.hook_point).require()
    finetune.sae_stage(run).require()
    encoder = _encoder(run, activations)
    finished = {shard.name for shard in stage.begin(run.ranks)}
    store = shards.open_shards(activations.path)
    names = [f"codes-{number:05d}.safetensors" for number in range(len(store.shards))]
    todo = [number for number, name in enumerate(names) if name not in finished]
    done = store.rows - sum(store.shards[number].rows for number in todo)
    mine = (todo[claimed] for claimed in run.ranks.counter("codes").numbers(len(todo)))
    with run.ranks.progress("codes", store.rows, "activations", done) as advance:
        for number, rows in _read_ahead(store.paths, mine):
            codes = encode(encoder, rows, advance)
            codes.save(stage.path / names[number], encoder.config.n)
            stage.add_shard(names[number], codes.rows, sentences=len(codes.sentence), active=len(codes.latent))
    made = stage.collect()
    stage.finish(
        n=encoder.config.n,
        rows=store.rows,
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


def _encoder(run: Run, activations: Stage) -> Autoencoder:
    device = run.ranks.device(run.recipe.train.device)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = files.load(run.sae_folder, device)
    if encoder.config.d != activations.manifest.counts["d"]:
        raise StoreError(
            f"{activations.path}: activations of width {activations.manifest.counts['d']} do not fit an SAE of width "
            f"{encoder.config.d}; train it on this store"
        )
    return encoder


def _read_ahead(paths: Sequence[Where], numbers: Iterator[int]) -> Iterator[tuple[int, shards.Rows]]:
    """The number and the rows of each shard; the next one is read while this one is encoded."""
    with ThreadPoolExecutor(1) as pool:
        waiting: tuple[int, Future[shards.Rows]] | None = None
        for number in numbers:
            reading = pool.submit(shards.read, paths[number])
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = number, reading
        if waiting is not None:
            yield waiting[0], waiting[1].result()
