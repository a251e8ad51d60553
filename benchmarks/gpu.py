"""Checks every CUDA kernel, then measures the training step on a machine that has PyTorch, Triton and a GPU.

Flow: each kernel against its twin (a wrong one ends the script) -> what the device can do at best -> for each shape the
parts of a step with their share of that, the encoder's product cut in several ways, and whole steps beside a compiled
dense one and sparsify's (where it is installed), turn by turn. Ends within `--minutes`; what there was no time or no
memory for is named. `--interpret` runs all of it on the CPU at tiny shapes, where times mean nothing.

    PYTHONPATH=src python benchmarks/gpu.py --json gpu.json
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

if "--interpret" in sys.argv:  # Triton looks when it is imported
    os.environ["TRITON_INTERPRET"], os.environ["MONOSEM_KERNELS"] = "1", "triton"

import torch
import triton as triton_package
from gpu_checks import SHAPES, TINY, Shape, checks
from gpu_parts import Ceilings, Part, parts, products
from torch import Tensor

from monosem.kernels import choose, triton
from monosem.kernels.triton import plan
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.sae.losses import AuxK
from monosem.sae.objective import Objective
from monosem.train.optim import OptimSettings
from monosem.train.step import StepSettings, TrainStep

REFERENCE = (Shape(3072, 65_536, 64, 8192), Shape(3072, 262_144, 32, 32_768))
"""The reference system's shape, and the one its author wanted next."""
SEVERAL = 1 << 17
"""Up to so many latents there is memory for several SAEs of ours."""
TINY_REFERENCE = (Shape(16, 96, 4, 12),)


def main() -> None:
    args = parse_arguments()
    device = torch.device("cpu" if args.interpret else "cuda")
    deadline = time.monotonic() + 60 * args.minutes
    torch.manual_seed(0)
    assert choose(device) is triton, "these machines' own choice must be the kernels that are measured"
    report: dict[str, object] = {
        "machine": machine(device),
        "checks": check(device, TINY if args.interpret else SHAPES),
    }
    ceilings = measure_ceilings(device)
    report["ceilings"] = {"bf16_tflops": ceilings.operations / 1e12, "copy_gb_per_s": ceilings.bytes / 1e9}
    print("ceilings: {bf16_tflops:.0f} TFLOP/s in bfloat16, {copy_gb_per_s:.0f} GB/s".format(**report["ceilings"]))  # pyright: ignore[reportCallIssue]
    shapes = [Shape(*shape) for shape in args.shape or (TINY_REFERENCE if args.interpret else REFERENCE)]
    report["shapes"] = [measured(shape, ceilings, device, args, deadline) for shape in shapes]
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shape", type=int, nargs=4, action="append", metavar=("D", "N", "K", "BATCH"), help="instead of the two"
    )
    parser.add_argument("--rounds", type=int, default=9, help="turns of everything that is timed, after two to warm up")
    parser.add_argument("--minutes", type=float, default=8.0, help="nothing new is begun after this long")
    parser.add_argument("--json", metavar="PATH", help="write all figures to this file")
    parser.add_argument("--interpret", action="store_true", help="in Triton's interpreter on the CPU, tiny shapes")
    args = parser.parse_args()
    if not args.interpret and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --interpret runs on the CPU")
    return args


def machine(device: torch.device) -> dict[str, object]:
    """What the figures were taken on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "Triton's interpreter"
    print(f"{name}, torch {torch.__version__}, triton {triton_package.__version__}")
    return {"device": name, "torch": torch.__version__, "triton": triton_package.__version__}


def check(device: torch.device, shapes: tuple[Shape, ...]) -> list[dict[str, object]]:
    """Every kernel at every shape; ends the script if one is wrong."""
    results = list(checks(triton, device, shapes))
    worst: dict[str, tuple[float, bool]] = {}
    for result in results:
        error, passed = worst.get(result.kernel, (0.0, True))
        worst[result.kernel] = max(error, result.error), passed and result.passed
    for name, (error, passed) in worst.items():
        print(f"  {'ok   ' if passed else 'WRONG'} {name:32} {error:.1e}")
    if wrong := [f"{result.kernel} at {tuple(result.shape)}" for result in results if not result.passed]:
        sys.exit(f"not measured, because these are wrong: {', '.join(wrong)}")
    return [{"kernel": r.kernel, "shape": list(r.shape), "error": r.error} for r in results]


def measure_ceilings(device: torch.device) -> Ceilings:
    """The device's best: a product of 8,192 cubed, a copy of 4 GiB."""
    size, count = (8192, 1 << 30) if device.type == "cuda" else (64, 1 << 12)
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    source, target = torch.randn(count, device=device), torch.empty(count, device=device)
    times = rounds([Part("product", lambda: a @ b), Part("copy", lambda: target.copy_(source))], device, 9)
    return Ceilings(2 * size**3 / statistics.median(times["product"]), 8 * count / statistics.median(times["copy"]))


def measured(
    shape: Shape, ceilings: Ceilings, device: torch.device, args: argparse.Namespace, deadline: float
) -> dict[str, object]:
    """All figures of one shape."""
    print(f"\nd {shape.d}, n {shape.n:,}, k {shape.k}, batch {shape.batch:,}")
    batches, planned = [activations(shape, device, seed) for seed in range(2)], plan.memory(*shape)
    peak = peak_bytes(shape, device, batches)
    print(f"our step's memory: {peak / 1e9:.2f} GB, planned {sum(planned.values()) / 1e9:.2f}")
    report: dict[str, object] = {"shape": shape._asdict(), "peak_bytes": peak, "planned_bytes": planned}
    sae = new_sae(shape, device)
    z, w_enc, w_dec = sae.normalise(batches[0]).z, sae.W_enc.detach(), sae.W_dec.detach()
    sections: dict[str, Callable[[], list[Part]]] = {
        "whole steps": lambda: contestants(shape, device, batches),
        "parts": lambda: parts(triton, shape, z, w_enc.clone(), w_dec.clone()),
        "products": lambda: products(shape, z, w_enc),
    }
    for name, make in sections.items():
        report[name] = section(name, make, shape, ceilings, device, args.rounds, deadline)
    return report


def section(
    name: str, make: Callable[[], list[Part]], shape: Shape, ceilings: Ceilings, device: torch.device, count: int,
    deadline: float,
) -> dict[str, object]:  # fmt: skip
    """Time some parts turn by turn, and print their table."""
    if time.monotonic() > deadline:
        print(f"{name}: no time left")
        return {"left_out": "no time left"}
    try:
        made = make()
        going, reasons = warmed_up(made, device, deadline)
        times = rounds(going, device, count, deadline)
    except torch.OutOfMemoryError:
        print(f"{name}: out of memory")
        return {"left_out": "out of memory"}
    print(f"{name:32}{'ms':>9}{'activations/s':>15}{'GB':>8}{'of roofline':>13}")
    rows: dict[str, object] = {}
    for part in going:
        figures = rows[part.name] = row(part, times[part.name], shape, ceilings)
        print(
            f"  {part.name:30}{figures['ms']:>9.3f}{figures['activations_per_s']:>15,.0f}{part.bytes / 1e9:>8.2f}"
            f"{figures['share_of_roofline']:>13.2f}"
        )
    for left_out, reason in reasons.items():
        print(f"  {left_out:30}{reason:>9}")
        rows[left_out] = {"left_out": reason}
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return rows


def row(part: Part, seconds: list[float], shape: Shape, ceilings: Ceilings) -> dict[str, float]:
    """One line of the table."""
    median = statistics.median(seconds)
    return {
        "ms": 1000 * median,
        "fastest_ms": 1000 * min(seconds),
        "activations_per_s": shape.batch / median,
        "bytes": part.bytes,
        "operations": part.operations,
        "share_of_roofline": ceilings.floor(part) / median,
    }


def warmed_up(made: list[Part], device: torch.device, deadline: float) -> tuple[list[Part], dict[str, str]]:
    """Run everything twice (kernels are compiled); what does not fit is left out, with the reason."""
    going, reasons = [], {}
    for part in made:
        if time.monotonic() > deadline:
            reasons[part.name] = "no time left"
            continue
        try:
            for _ in range(2):
                part.run()
            synchronise(device)
            going.append(part)
        except torch.OutOfMemoryError:
            reasons[part.name] = "out of memory"
    return going, reasons


def rounds(
    made: list[Part], device: torch.device, count: int, deadline: float = float("inf")
) -> dict[str, list[float]]:
    """Seconds of every part in every round, each taking its turn."""
    times: dict[str, list[float]] = {part.name: [] for part in made}
    for turn in range(count + 1):
        if turn > 1 and time.monotonic() > deadline:
            break
        for part in made:
            synchronise(device)
            start = time.perf_counter()
            part.run()
            synchronise(device)
            if turn:
                times[part.name].append(time.perf_counter() - start)
    return times


def peak_bytes(shape: Shape, device: torch.device, batches: list[Tensor]) -> int:
    """Most memory that our step, alone with its weights, has in use beside the batches; 0 in the interpreter."""
    if device.type != "cuda":
        return 0
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step = our_step(shape, device)
    for batch in batches:
        step(batch)
    peak = torch.cuda.max_memory_allocated(device) - before
    del step
    torch.cuda.empty_cache()
    return peak


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def activations(shape: Shape, device: torch.device, seed: int) -> Tensor:
    """Gaussian `[B, d]` with variances falling as 1 / i along random orthogonal directions."""
    generator = torch.Generator(device).manual_seed(1_000_003)
    directions = torch.linalg.qr(torch.randn(shape.d, shape.d, device=device, generator=generator))[0]
    spectrum = torch.arange(1, shape.d + 1, device=device) ** -0.5
    generator.manual_seed(seed)
    return (torch.randn(shape.batch, shape.d, device=device, generator=generator) * spectrum) @ directions


def new_sae(shape: Shape, device: torch.device, sparsity: str = "topk") -> Autoencoder:
    """An SAE with a random dictionary, made where it is used: an orthogonal one of this size takes minutes."""
    with device:
        sae = Autoencoder(SaeConfig(shape.d, shape.n, shape.k, sparsity, "layer"))
    with torch.no_grad():
        sae.W_dec.normal_()
        sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
        sae.W_enc.copy_(sae.W_dec)
    return sae


def our_step(shape: Shape, device: torch.device, sparsity: str = "topk") -> Callable[[Tensor], object]:
    optim = OptimSettings(lr=1e-5, schedule="constant", betas=(0.9, 0.999), eps=1e-8)
    return TrainStep(new_sae(shape, device, sparsity), StepSettings(optim, Objective(AuxK(shape.d // 2)))).step


def contestants(shape: Shape, device: torch.device, batches: list[Tensor]) -> list[Part]:
    """Whole training steps, each on another batch than the time before."""
    d, n, k, batch = shape
    steps: dict[str, Callable[[Tensor], object]] = {"monosem": our_step(shape, device)}
    if n <= SEVERAL:
        steps["monosem, batchtopk"] = our_step(shape, device, "batchtopk")
    if device.type == "cuda":
        steps["dense, compiled"] = dense_step(shape, device)
    if importlib.util.find_spec("sparsify"):
        import peers

        steps["sparsify"] = peers.sparsify(d, n, k, device=device.type)
    turn = iter(range(1 << 30))
    operations = 2.0 * batch * n * d  # of the encoder's product, which every step has at least
    return [
        Part(name, lambda run=run: run(batches[next(turn) % len(batches)]), operations) for name, run in steps.items()
    ]


def dense_step(shape: Shape, device: torch.device) -> Callable[[Tensor], object]:
    """What one would write first: dense TopK codes, autograd in bfloat16, fused AdamW, compiled."""
    sae = new_sae(shape, device)
    w_enc, w_dec = (torch.nn.Parameter(w.detach().clone()) for w in (sae.W_enc, sae.W_dec))
    b_enc, b_pre = (torch.nn.Parameter(torch.zeros(size, device=device)) for size in (shape.n, shape.d))
    optimizer = torch.optim.AdamW([w_enc, w_dec, b_enc, b_pre], lr=1e-5, weight_decay=0.0, fused=True)

    @torch.compile
    def loss(x: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            pre = (x - b_pre) @ w_enc.T + b_enc
            values, indices = pre.topk(shape.k, dim=1)
            codes = torch.zeros_like(pre).scatter(1, indices, values.relu())
            error = codes @ w_dec + b_pre - x
        return error.float().square().sum() / (x - x.mean(0)).square().sum()

    def step(x: Tensor) -> None:
        loss(x).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            w_dec.div_(w_dec.norm(dim=1, keepdim=True))

    return step


if __name__ == "__main__":
    main()
