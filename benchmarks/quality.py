"""Held-out FVU of ours and of each peer after the same steps on the same stored activations.

Every contestant trains from its own initialisation with Adam at a constant rate, once for each of the given rates, on
the same batches in the same order; then one held-out block is measured before anything learns from it. Activations are
centred and scaled for all alike (FVU does not change by that). Peers take part where they are installed.

    PYTHONPATH=src python benchmarks/quality.py --batches runs/demo/batches/20.resid_post
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import peers
import torch
from torch import Tensor

from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.sae.losses import AuxK
from monosem.sae.objective import Objective
from monosem.store.shards import read
from monosem.train.optim import OptimSettings
from monosem.train.step import StepSettings, TrainStep

Step = Callable[[Tensor], float]
DEAD_WINDOW = 10_000_000  # as the peers' steps have it
ENCODER_NORM = 0.3  # as recipes/demo.toml has it


def ours(d: int, n: int, k: int, lr: float) -> Step:
    """Our step; returns the batch's FVU before the update."""
    config = SaeConfig(d=d, n=n, k=k, normalisation="none")
    sae = Autoencoder(config, torch.Generator().manual_seed(0), encoder_norm=ENCODER_NORM)
    optim = OptimSettings(lr=lr, schedule="constant", betas=(0.9, 0.999), eps=1e-8)
    step = TrainStep(sae, StepSettings(optim, Objective(AuxK(k_aux=d // 2)), DEAD_WINDOW))
    return lambda x: step.step(x).main


def main() -> None:
    options = arguments()
    contestants: dict[str, Callable[..., Step]] = {"monosem": ours, **peers.STEPS}
    train, held_out = activations(options.batches, "train"), activations(options.batches, "validation")
    mean = train.mean(0)
    scale = (train.shape[1] / (train - mean).square().sum(1).mean()).sqrt()
    train, held_out = (train - mean) * scale, (held_out - mean) * scale
    results = []
    for name, make in contestants.items():
        for lr in options.lr:
            torch.manual_seed(0)
            step = make(train.shape[1], options.n, options.k, lr)
            started = time.perf_counter()
            for x in batches(train, options.batch, options.steps):
                step(x)
            seconds = time.perf_counter() - started
            fvu = step(held_out[: options.held_out])
            results.append({"name": name, "lr": lr, "held_out_fvu": fvu, "seconds": seconds})
            print(f"{name:<20} lr {lr:<8g} held-out FVU {fvu:.4f}   {seconds:6.0f} s", flush=True)
    if options.json:
        print(json.dumps({"options": vars(options), "results": results}, default=str))


def batches(x: Tensor, size: int, steps: int) -> Iterator[Tensor]:
    """The same batches for everybody: whole passes in orders drawn from seed 0."""
    generator = torch.Generator().manual_seed(0)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < size:
            order = torch.cat([order, torch.randperm(len(x), generator=generator)])
        yield x[order[:size]]
        order = order[size:]


def activations(folder: Path, part: str) -> Tensor:
    """`[rows, d]` float32 of all shards of a part."""
    shards = sorted(folder.glob(f"{part}-*.safetensors"))
    return torch.cat([read(shard).activations.float() for shard in shards])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=Path, required=True, help="a run's batches/HOOK folder")
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3])
    parser.add_argument("--held-out", type=int, default=8192, help="held-out activations measured at the end")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
