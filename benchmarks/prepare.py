"""Prepare on a synthetic store of any size: memory, disk and speed, over workers and ranks.

Makes a store of `--gb` (kept in `--folder` for the next run of the same size, unless it is consumed), prepares it in
processes of its own, and looks all the while how much memory these hold and how many bytes lie below the folder.
Afterwards every row is checked to be there once, and the statistics against float64 sums taken as the rows were made.

    python benchmarks/prepare.py --gb 20 --workers 2 --json
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.ranks import Ranks, joined
from monosem.recipe import PrepareRecipe
from monosem.run import Stage
from monosem.store import shards, split
from monosem.store.preparation import Plan, Preparation
from monosem.store.shards import CONSUMED, ShardFile
from monosem.store.stats import Statistics

SENTENCE, BLOCK, SEED = 29, 8192, 0  # tokens of every sentence; rows made at once
ORIGIN_BYTES = 16


def main() -> None:
    args = parse_arguments()
    if args.make:
        with joined() as ranks:
            preparation(args, ranks).make()
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    made = make_store(args)
    shutil.rmtree(args.folder / "batches", ignore_errors=True)
    figures = watched(args) | checked(args, made)
    if args.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            print(f"{name:<32} {value:,.4g}" if isinstance(value, float) else f"{name:<32} {value:,}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-prepare"))
    parser.add_argument("--gb", type=float, default=1.0, help="size of the store, 10^9 bytes")
    parser.add_argument("--d", type=int, default=576)
    parser.add_argument("--shard-mb", type=int, default=512)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--geometric-median", action="store_true")
    parser.add_argument("--consume", action="store_true", help="free the store's shards as it goes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def source_stage(args: argparse.Namespace) -> Stage:
    return Stage(
        args.folder / "activations", "activations", {"gb": args.gb, "d": args.d, "shard_mb": args.shard_mb}, {}
    )


def preparation(args: argparse.Namespace, ranks: Ranks) -> Preparation:
    source = source_stage(args).require()
    keys = {"shard_mb": args.shard_mb, "workers": args.workers, "geometric_median": args.geometric_median}
    keys["consume"] = args.consume
    recipe = PrepareRecipe.model_validate(keys)
    stage = Stage(args.folder / "batches", "batches", recipe.fingerprint_part(), {})
    plan = Plan.of(source.manifest, recipe)
    return Preparation(source, stage, recipe, SEED, plan, ranks)


def make_store(args: argparse.Namespace) -> Statistics:
    """The store, and the statistics of its training rows by plain float64 sums."""
    stage, reference = source_stage(args), args.folder / "reference.npz"
    row_bytes = 2 * args.d + ORIGIN_BYTES
    if not stage.complete or CONSUMED in stage.manifest.counts:
        shutil.rmtree(stage.path, ignore_errors=True)
        stage.begin()
        sums = np.zeros((3, args.d))
        per_shard = int((args.shard_mb << 20) / row_bytes) // SENTENCE * SENTENCE
        total = int(args.gb * 1e9 / row_bytes) // SENTENCE * SENTENCE
        for number, start in enumerate(range(0, total, per_shard)):
            write_shard(stage, number, start, min(per_shard, total - start), args.d, sums)
        stage.finish(rows=total, d=args.d, norm_threshold=None)
        np.savez(reference, sums=sums)
    sums = np.load(reference)["sums"]
    mean = sums[1] / sums[0]
    count = int(sums[0, 0])
    return Statistics(count, mean + OFFSET, sums[2] / sums[0] - mean**2, np.zeros(0, dtype=np.int64))


OFFSET = 3.0  # the mean of every dimension, about which the reference is summed


def write_shard(stage: Stage, number: int, start: int, rows: int, d: int, sums: np.ndarray) -> None:
    """Gaussian rows; adds up those that will be trained on."""
    generator = torch.Generator().manual_seed(number)
    token = torch.arange(start, start + rows)
    training = ~split.is_validation((token // SENTENCE).numpy(), PrepareRecipe().validation_fraction, SEED)
    spread = torch.linspace(0.5, 2, d)

    def blocks() -> Iterator[Tensor]:
        for first in range(0, rows, BLOCK):
            x = (torch.randn(min(BLOCK, rows - first), d, generator=generator) * spread + OFFSET).bfloat16()
            chosen = x[torch.from_numpy(training[first : first + len(x)])].double().numpy() - OFFSET
            sums[0] += len(chosen)
            sums[1] += chosen.sum(0)
            sums[2] += (chosen**2).sum(0)
            yield x

    origin = {"sentence": token // SENTENCE, "position": (token % SENTENCE).int(), "token": token.int()}
    shapes = {"sentence": (torch.int64, (rows,)), "position": (torch.int32, (rows,)), "token": (torch.int32, (rows,))}
    name = f"activations-{number:05d}.safetensors"
    parts = [*([origin[field]] for field in shapes), blocks()]
    shards.write_blocks(stage.path / name, {**shapes, "activations": (torch.bfloat16, (rows, d))}, parts)
    stage.add_shard(name, rows)


def watched(args: argparse.Namespace) -> dict[str, Any]:
    """Prepare in other processes; what they took."""
    own = [sys.argv[0], *sys.argv[1:], "--make"]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(args.ranks)] if args.ranks > 1 else []
    before, begun = used(args.folder), time.monotonic()
    process = subprocess.Popen([sys.executable, *torchrun, *own])
    resident = anonymous = disk = 0
    ended = threading.Event()
    threading.Thread(target=lambda: (process.wait(), ended.set()), daemon=True).start()
    while not ended.wait(0.1):
        held = [memory_of(pid) for pid in tree(process.pid)]
        resident, anonymous = max(resident, sum(h[0] for h in held)), max(anonymous, sum(h[1] for h in held))
        disk = max(disk, used(args.folder) - before)
    seconds = time.monotonic() - begun
    if process.returncode:
        sys.exit(process.returncode)
    manifest = source_stage(args).manifest
    return {
        "store_gb": sum(shard.bytes for shard in manifest.shards) / 1e9,
        "seconds": seconds,
        "rows_per_second": manifest.counts["rows"] / seconds,
        "peak_rss_gb": resident / 1e9,
        "peak_anonymous_gb": anonymous / 1e9,
        "peak_extra_disk_gb": disk / 1e9,
    }


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(below for child in children for below in tree(int(child)))]


def memory_of(pid: int) -> tuple[int, int]:
    """Bytes in memory, and those of them that are no file's."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return tuple(int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon"))  # type: ignore[return-value]
    except (FileNotFoundError, ProcessLookupError, KeyError):
        return 0, 0


def used(folder: Path) -> int:
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                total += (Path(root) / name).stat().st_size
            except FileNotFoundError:
                continue
    return total


def checked(args: argparse.Namespace, reference: Statistics) -> dict[str, Any]:
    """Every row once, on its side; the statistics."""
    stage = Stage(args.folder / "batches", "batches", preparation(args, Ranks()).recipe.fingerprint_part(), {})
    seen = np.zeros(source_stage(args).manifest.counts["rows"], dtype=bool)
    for shard in stage.require().shards:
        if shard.rows:
            token = ShardFile(stage.path / shard.name).read("token").numpy()
            assert not seen[token].any(), f"{shard.name}: a row twice"
            seen[token] = True
    assert seen.all(), "a row is missing"
    found = Statistics.load(stage.path)
    assert found.count == reference.count
    worst = [
        float((abs(one - other) / abs(other)).max())
        for one, other in ((found.mean, reference.mean), (found.variance, reference.variance))
    ]
    return {"rows": len(seen), "mean_relative_error": worst[0], "variance_relative_error": worst[1]}


if __name__ == "__main__":
    main()
