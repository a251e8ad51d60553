"""A whole training step beside the dense encoder product, and beside other trainers' steps, on the same inputs.

Every contestant takes its turn in every round, in one process, because timings drift and ratios drift less: a ratio is
the median over rounds of the ratio within a round. Inputs have a decaying spectrum, as activations do, so that the
selection meets realistic values. `--peers` times whichever of the packages in `peers.py` are installed. Beside the
times: the least bytes that our step must move, its share of the roofline (the product in the faster type and a large
copy, measured in the same rounds), and the most memory it takes, in a process of its own.

    python benchmarks/train_step.py --d 576 --n 16384 --k 32 --batch 4096 --dead 0.1 --json
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import peers
import torch
from memory import peak_bytes
from torch import Tensor

from monosem.kernels.cpu_select import has_fast_bf16
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.sae.initialise import dataset_statistics
from monosem.sae.losses import AuxK
from monosem.sae.objective import Objective
from monosem.train.optim import OptimSettings
from monosem.train.step import StepSettings, TrainStep

Contestant = Callable[[Tensor], object]
PRODUCT = "encoder product fp32"
LOW_PRODUCT = "encoder product bf16"
COPY = "copy of 256 MiB"
COPIED = 1 << 26
OURS = "monosem"
BATCHES = 4
DEAD_WINDOW = 10_000_000


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(0)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.alone:
        print(memory_alone(args))
        return
    batches = [activations(args.batch, args.d, seed) for seed in range(BATCHES)]
    contestants = {
        COPY: copy(),
        **products(args.d, args.n, args.batch),
        OURS: our_step(args.d, args.n, args.k, args.dead, batches[0]),
        **(peer_steps(args) if args.peers else {}),
    }
    rounds = measure(contestants, batches, args.rounds)
    report = summary(rounds, args)
    print(json.dumps(report, indent=2) if args.json else table(report))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=576, help="width of the activations")
    parser.add_argument("--n", type=int, default=8192, help="latents")
    parser.add_argument("--k", type=int, default=32, help="active latents")
    parser.add_argument("--batch", type=int, default=2048, help="activations a step")
    parser.add_argument("--dead", type=float, default=0.0, metavar="FRACTION", help="share of latents kept dead")
    parser.add_argument("--rounds", type=int, default=9, help="turns of every contestant, after one to warm up")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--peers", action="store_true", help="time the peers that are installed, too")
    parser.add_argument("--alone", action="store_true", help="only print our step's bytes at most, beside the inputs")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    args = parser.parse_args()
    if args.peers and not peers.STEPS:
        parser.error("--peers: none of eai-sparsify, dictionary-learning and sae-lens is installed here")
    if not 0 <= args.dead < 1:
        parser.error(f"--dead {args.dead}: expected a share in [0, 1)")
    return args


def activations(rows: int, d: int, seed: int) -> Tensor:
    """Gaussian `[rows, d]` with variances falling as 1 / i along random orthogonal directions."""
    directions = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(1_000_003)))[0]
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, d, generator=generator) * torch.arange(1, d + 1) ** -0.5) @ directions


def products(d: int, n: int, batch: int) -> dict[str, Contestant]:
    """The dense encoder product alone, into a reused buffer."""
    weight = torch.randn(n, d) / d**0.5
    low, out, low_out = weight.bfloat16(), torch.empty(batch, n), torch.empty(batch, n, dtype=torch.bfloat16)
    return {
        PRODUCT: lambda x: torch.mm(x, weight.T, out=out),
        LOW_PRODUCT: lambda x: torch.mm(x.bfloat16(), low.T, out=low_out),
    }


def copy() -> Contestant:
    """A copy that fits into no cache: what memory can do."""
    source, target = torch.randn(COPIED), torch.empty(COPIED)
    return lambda x: target.copy_(source)  # noqa: ARG005


def memory_alone(args: argparse.Namespace) -> int:
    """Bytes that our step takes at most, with its weights, in a process that does nothing else."""
    x = activations(args.batch, args.d, 0)
    before = peak_bytes()
    run = our_step(args.d, args.n, args.k, args.dead, x)
    for _ in range(2):
        run(x)
    return peak_bytes() - before


def bytes_moved(d: int, n: int, k: int, batch: int) -> dict[str, int]:
    """The least that each part of a step without dead latents moves, every gathered row counted, in float32."""
    row, entries = 4 * d, batch * k
    return {
        "select": (n + batch) * row + n * row // 2,
        "values": (entries + batch) * row,
        "decode": (entries + batch) * row,
        "gradients of values": (entries + batch) * row,
        "gradients of weights": 2 * entries * row,
        "projection, AdamW, unit rows": 12 * n * row,
    }


def our_step(d: int, n: int, k: int, dead: float, sample: Tensor, device: str = "cpu") -> Contestant:
    """Our step, AuxK on; `dead` of the latents are too faint to be chosen, and stay so."""
    statistics_ = dataset_statistics(sample.mean(0), sample.var(0))
    sae = Autoencoder(SaeConfig(d, n, k), torch.Generator().manual_seed(0), statistics_).to(device)
    optim = OptimSettings(lr=2e-4, schedule="constant", betas=(0.9, 0.999), eps=1e-8)
    step = TrainStep(sae, StepSettings(optim, Objective(AuxK(d // 2)), DEAD_WINDOW))
    faint = int(dead * n)
    faint_rows = sae.W_enc.detach()[:faint].clone() * 1e-3

    def run(x: Tensor) -> None:
        # AuxK would revive them: make them faint again before every step
        sae.W_enc.detach()[:faint] = faint_rows
        sae.b_enc.detach()[:faint] = 0
        step.dead.silent_for[:faint] = DEAD_WINDOW
        result = step.step(x)
        assert result.n_dead == faint

    return run


def peer_steps(args: argparse.Namespace) -> dict[str, Contestant]:
    """A training step of each installed peer."""
    return {name: make(args.d, args.n, args.k) for name, make in peers.STEPS.items()}


def measure(contestants: dict[str, Contestant], batches: list[Tensor], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every contestant in every round; the first round is thrown away."""
    milliseconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run(batches[turn % len(batches)])
            if turn:
                milliseconds[name].append(1000 * (time.perf_counter() - start))
    return milliseconds


def summary(rounds: dict[str, list[float]], args: argparse.Namespace) -> dict[str, object]:
    """Medians, and ratios within a round: to the fp32 product, and of the other steps to ours."""

    def ratio(name: str, to: str) -> float:
        return statistics.median(a / b for a, b in zip(rounds[name], rounds[to], strict=True))

    moved = sum(bytes_moved(args.d, args.n, args.k, args.batch).values())
    best = min(statistics.median(rounds[PRODUCT]), statistics.median(rounds[LOW_PRODUCT]))
    memory_ms = statistics.median(rounds[COPY]) * moved / (8 * COPIED)
    return {
        "shape": {"d": args.d, "n": args.n, "k": args.k, "batch": args.batch, "dead": args.dead},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "fast_bf16": has_fast_bf16(),
        "rounds": args.rounds,
        "bytes_moved": bytes_moved(args.d, args.n, args.k, args.batch),
        # products and memory do not overlap on a CPU: the floor is their sum
        "share_of_roofline": round((best + memory_ms) / statistics.median(rounds[OURS]), 3),
        "peak_bytes": peak_memory(),
        "contestants": {
            name: {
                "median_ms": round(statistics.median(values), 2),
                "min_ms": round(min(values), 2),
                "activations_per_s": round(1000 * args.batch / statistics.median(values)),
                "to_product": round(ratio(name, PRODUCT), 3),
                "to_monosem": round(ratio(name, OURS), 3),
            }
            for name, values in rounds.items()
        },
    }


def peak_memory() -> int:
    """`memory_alone` in a process of its own, with the same arguments."""
    command = [sys.executable, *sys.argv, "--alone"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def table(report: dict[str, object]) -> str:
    shape, contestants = report["shape"], report["contestants"]
    assert isinstance(shape, dict)
    assert isinstance(contestants, dict)
    lines = [", ".join(f"{key} {value}" for key, value in shape.items())]
    lines.append(f"{'':24}{'median ms':>11}{'min ms':>10}{'/ product':>11}{'/ monosem':>11}{'activations/s':>15}")
    for name, row in contestants.items():
        if name == COPY:
            continue
        lines.append(
            f"{name:24}{row['median_ms']:>11.1f}{row['min_ms']:>10.1f}{row['to_product']:>10.2f}x"
            f"{row['to_monosem']:>10.2f}x{row['activations_per_s']:>15,}"
        )
    moved = report["bytes_moved"]
    assert isinstance(moved, dict)
    lines.append("our step moves at least " + ", ".join(f"{part} {size / 1e9:.2f} GB" for part, size in moved.items()))
    lines.append(f"share of roofline {report['share_of_roofline']}, memory at most {report['peak_bytes']:,} bytes")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
