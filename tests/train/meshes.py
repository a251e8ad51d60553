"""What a rank does in the tests of parallel training: every way to train, on stored batches, over one mesh or more.

Started by `torchrun.start` as a program: FOLDER OUT STEPS DATAxLATENT ...; rank 0 writes OUT/DATAxLATENT.json.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh

from monosem.ranks import Ranks, joined
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.sae.exchange import ALONE, Exchange
from monosem.sae.losses import AuxK
from monosem.sae.nested import Nested
from monosem.sae.objective import Objective
from monosem.sae.penalties import Penalty
from monosem.store.loader import Cursor, Loader
from monosem.store.pairs import Sample
from monosem.train.lockstep import Gathered
from monosem.train.optim import OptimSettings
from monosem.train.parallel import Together
from monosem.train.resample import resample
from monosem.train.source import Feed
from monosem.train.step import StepSettings, TrainStep

D, MADE, N, K, BATCH = 24, 20, 96, 4, 64
OPTIM = OptimSettings(lr=2e-3, schedule="cosine", betas=(0.9, 0.99), eps=1e-8, total_steps=200, threshold_rate=5)
PLAIN = Objective(AuxK(8), exact=True)
WAYS = {
    "topk": PLAIN,
    "abstopk": PLAIN,
    "relu": replace(PLAIN, penalty=Penalty("l1", 2.0, warmup_steps=20), free_norms=True),
    "jumprelu": replace(PLAIN, penalty=Penalty("l0", 0.5, target=K, silent=1e-3, warmup_steps=20)),
    "batchtopk-matryoshka": replace(PLAIN, nested=Nested.matryoshka([16, 40], N)),
    "topk-multi": replace(PLAIN, nested=Nested.multi_topk(K, [3 * K], 1 / 8)),
    "topk-transcoder": PLAIN,
    "topk-parts": replace(PLAIN, aux=AuxK(8, budget=100)),  # on all rows: which part has which is another on a mesh
    "relu-resampled": replace(PLAIN, penalty=Penalty("l1", 2.0, warmup_steps=20), aux=AuxK(8, coefficient=0.0)),
}
MORE: dict[str, dict[str, Any]] = {
    "abstopk": {"ema": 0.99, "optim": replace(OPTIM, clip=0.02)},
    "batchtopk-matryoshka": {"k_start": D, "k_steps": 40},
}
DEAD_AFTER = 40 * BATCH
PARTS = 2
RESAMPLED_AT = 100


def new_step(way: str, exchange: Exchange) -> TrainStep:
    transcodes = {"d_out": MADE, "target_hook_point": "made", "skip": True} if way == "topk-transcoder" else {}
    config = SaeConfig(D, N, K, way.split("-")[0], normalisation="none", **transcodes)
    start = torch.Generator().manual_seed(0)
    sae = Autoencoder(config, start, encoder_norm=0.5, threshold=None, exchange=exchange)
    with torch.no_grad():  # a third of the latents sleep, so that AuxK has something to wake
        sae.b_enc[torch.tensor([latent % 3 == 0 for latent in exchange.latents(N)])] = -3.0
    settings = {"optim": OPTIM, "objective": WAYS[way], "dead_window": DEAD_AFTER, **MORE.get(way, {})}
    if way == "topk-parts":  # a process's own rows, in as many parts as elsewhere
        settings["micro_batch"] = BATCH // exchange.data.ranks // PARTS
    return TrainStep(sae, StepSettings(**settings))


def feed(folder: Path, exchange: Exchange, target: Path | None = None, cursor: Cursor | None = None) -> Feed:
    """The stored batches, as training reads them."""
    own = Loader(folder, BATCH, 3, 0, cursor, target, only=exchange.reads(BATCH))
    return Gathered(own, exchange, torch.device("cpu")) if isinstance(exchange, Together) else own


def started_anew(step: TrainStep, folder: Path, exchange: Exchange, cursor: Cursor) -> int:
    """Resample from the batches that come next, as the trainer does."""
    with closing(feed(folder, exchange, cursor=cursor)) as ahead:
        samples = (Sample(batch.x, batch.target) for _, batch in zip(range(4), ahead, strict=False))
        return resample(step, samples, torch.Generator().manual_seed(1))


def run(way: str, folder: Path, steps: int, exchange: Exchange) -> dict[str, Any]:
    """Train; what each step's loss was, and which latents fired how often in it."""
    step = new_step(way, exchange)
    figures: list[dict[str, float]] = []
    fired = hashlib.sha256()
    target = folder.with_name("made") if step.sae.config.transcodes else None
    anew = 0
    with closing(feed(folder, exchange, target)) as batches:
        for number, batch in zip(range(steps), batches, strict=False):
            goal = step.sae.standardise_target(batch.target) if target else None
            result = step.step_normalised(step.sae.normalise(batch.x).z, goal)
            counts = torch.bincount(result.fired, minlength=len(step.sae.b_enc))
            fired.update(exchange.gather_latents(counts).numpy().tobytes())
            figures.append({name: getattr(result, name) for name in ("loss", "aux", "l0", "n_dead", "k")})
            if way == "relu-resampled" and number + 1 == RESAMPLED_AT:
                anew = started_anew(step, folder, exchange, batch.cursor)
    final = step.averaged()
    whole = exchange.whole_sae(final) if isinstance(exchange, Together) else final
    found = None if whole is None else fvu(whole, folder, target)
    return {"figures": figures, "fired": fired.hexdigest(), "resampled": anew, "fvu": found}


def fvu(sae: Autoencoder, folder: Path, target: Path | None) -> float:
    """Of the whole SAE, on the first batches."""
    with closing(Loader(folder, 1024, 3, 0, target=target)) as batches:
        batch = next(batches)
        y, y_hat = batch.target.clone(), sae(batch.x).x_hat
    return float((y - y_hat).double().square().sum() / (y - y.mean(0)).double().square().sum())


def traffic(exchange: Exchange) -> dict[str, int]:
    """Bytes that a step of TopK sends, all latents of a kind being dead; and what decides them."""
    d, n, k, batch = 64, 4096, 8, 64
    sae = Autoencoder(SaeConfig(d, n, k, normalisation="none"), torch.Generator().manual_seed(0), exchange=exchange)
    step = TrainStep(sae, StepSettings(OPTIM, Objective(AuxK(32), exact=True), dead_window=10 * batch))
    dead = 128  # of which AuxK chooses, on a part of the batch
    step.dead.silent_for[: dead // exchange.latent.ranks] = 1 << 30
    together = exchange if isinstance(exchange, Together) else None
    for number in range(2):
        x = torch.randn(batch, d, generator=torch.Generator().manual_seed(number))
        if together is not None:
            together.traffic.sent.clear()
            own = x[exchange.reads(batch).start : exchange.reads(batch).stop]
            x = together.gather_batch(own, torch.empty(batch // exchange.data.ranks, d))()
        step.step(x)
    plan = AuxK(32).plan(dead, n, batch)
    assert plan is not None
    width = min(32, dead // exchange.latent.ranks)
    sent = 0 if together is None else together.traffic.total
    return {"d": d, "n": n, "k": k, "batch": batch, "aux_rows": plan.rows, "aux_width": width, "sent": sent}


def exchanges(ranks: Ranks, meshes: list[str]) -> Iterator[tuple[str, Exchange]]:
    for name in meshes:
        shape = tuple(map(int, name.split("x")))
        if ranks.world == 1:
            yield name, ALONE
        else:
            mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "latent"))
            yield name, Together(mesh, torch.device("cpu"), ranks)


def main() -> None:
    folder, out, steps, *meshes = sys.argv[1:]
    torch.set_num_threads(1)
    with joined(patience=60) as ranks:
        for name, exchange in exchanges(ranks, meshes):
            told = {way: run(way, Path(folder), int(steps), exchange) for way in WAYS}
            told["bytes"] = traffic(exchange)
            if ranks.first:
                (Path(out) / f"{name}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
