"""How the step's time grows with the number of latents n, active latents k and batch B: three plots and their slopes.

One size varies at a time from a middle shape; after every step the encoder's product alone takes its turn. Time is
fitted in logarithms: the slope is the power of the size that time grows with. What to expect: n enters through the
encoder's product and AdamW, both proportional to it (1); k through gathers of rows only (towards 0 until they outweigh
the product); B through everything but AdamW (below 1 until the batch outweighs the weights).

    python benchmarks/growth.py --out docs/images --threads 2
    python benchmarks/growth.py --device cuda --d 3072 --middle 65536 64 8192
"""

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from train_step import activations, our_step

INK, PRODUCT = "#30638e", "#d1495b"
VARIED = {
    "n": [8192, 16_384, 32_768, 65_536, 131_072],
    "k": [8, 16, 32, 64, 128, 256, 512],
    "B": [512, 1024, 2048, 4096, 8192],
}
WORDS = {"n": "latents", "k": "active latents", "B": "activations a step"}


class Point(NamedTuple):
    """One shape's times in milliseconds."""

    size: int
    step: float
    product: float
    """Of the encoder's product alone, float32."""


def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, sizes in VARIED.items():
        chosen = [size for size in sizes if args.smallest <= size <= args.largest]
        points = [measure(name, size, args) for size in chosen]
        power = slope(points)
        for point in points:
            print(f"{name} {point.size:>8,} {point.step:>10.1f} ms, product {point.product:>10.1f} ms")
        print(f"{name}: time grows as {name}^{power:.2f}")
        draw(name, points, power, args)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=576, help="width of the activations")
    parser.add_argument("--middle", type=int, nargs=3, default=[16_384, 32, 4096], metavar=("N", "K", "B"))
    parser.add_argument("--rounds", type=int, default=5, help="steps of each point, after two to warm up")
    parser.add_argument("--smallest", type=int, default=0, help="leave out sizes below")
    parser.add_argument("--largest", type=int, default=1 << 30, help="leave out sizes above")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder for growth-n.png and so on")
    return parser.parse_args()


def measure(name: str, size: int, args: argparse.Namespace) -> Point:
    """Medians at the middle shape with one size changed."""
    shape = dict(zip("nkB", args.middle, strict=True)) | {name: size}
    n, k, batch = shape["n"], min(shape["k"], shape["n"]), shape["B"]
    x = activations(batch, args.d, 0).to(args.device)
    run = our_step(args.d, n, k, 0.0, x, args.device)
    weight, out = torch.randn(n, args.d, device=args.device), torch.empty(batch, n, device=args.device)
    times: dict[str, list[float]] = {"step": [], "product": []}
    for turn in range(args.rounds + 2):
        for what, do in (("step", lambda: run(x)), ("product", lambda: torch.mm(x, weight.T, out=out))):
            seconds = timed(do, args.device)
            if turn > 1:
                times[what].append(1000 * seconds)
    return Point(size, statistics.median(times["step"]), statistics.median(times["product"]))


def timed(do, device: str) -> float:
    """Seconds of a call, whatever it left running on the device included."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    do()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def slope(points: list[Point]) -> float:
    """The power of the size that time grows with, by least squares in logarithms; NaN from one point."""
    if len(points) < 2:
        return math.nan
    sizes, times = [math.log(p.size) for p in points], [math.log(p.step) for p in points]
    return statistics.linear_regression(sizes, times).slope


def draw(name: str, points: list[Point], power: float, args: argparse.Namespace) -> None:
    """`growth-NAME.png`."""
    figure = Figure(figsize=(6.0, 3.6), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    sizes = [point.size for point in points]
    axes.loglog(sizes, [p.step for p in points], "o-", color=INK, label=f"training step, grows as {name}^{power:.2f}")
    axes.loglog(sizes, [p.product for p in points], "--", color=PRODUCT, label="one float32 encoder product")
    others = ", ".join(f"{key} {value:,}" for key, value in zip("nkB", args.middle, strict=True) if key != name)
    axes.set(xlabel=f"{name}, {WORDS[name]}", ylabel="milliseconds", title=f"d {args.d}, {others}, {args.device}")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(args.out / f"growth-{name}.png")


if __name__ == "__main__":
    main()
