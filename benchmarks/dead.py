"""Dead latents over training: the default recipe beside the reference system's gate, as a plot.

Each argument is LABEL=FOLDER, a run or a sweep; the SAEs of a sweep are lines of one colour. A latent is dead when it
was silent for `train.dead_tokens` activations, which the recipe in the folder says.

    monosem sweep recipes/demo.toml --sae.n 16384 --seed 0,1,2 --name default
    monosem sweep recipes/demo.toml --sae.n 16384 --seed 0,1,2 --name gate \\
        --train.auxk_gate true --train.k_aux 512 --sae.encoder_norm 1
    python benchmarks/dead.py default=runs/default gate=runs/gate --out docs/images/dead-latents.png
"""

import argparse
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monosem.progress import read_metrics
from monosem.run import Run

COLOURS = ("#d1495b", "#30638e", "#6a994e", "#8d6a9f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="LABEL=FOLDER")
    parser.add_argument("--out", type=Path, default=Path("dead-latents.png"))
    args = parser.parse_args()
    figure = Figure(figsize=(7.5, 3.6), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for colour, named in zip(COLOURS, args.runs, strict=False):
        label, _, folder = named.partition("=")
        for number, run in enumerate(members(Path(folder))):
            lines = [line for line in read_metrics(run.path / "metrics.jsonl") if "dead" in line]
            seen = [line["step"] * run.recipe.train.batch / 1e6 for line in lines]
            share = [100 * line["dead"] / run.recipe.sae.n for line in lines]
            axes.plot(seen, share, color=colour, linewidth=1.4, label=None if number else label)
            print(f"{label} {run.path.name}: largest {max(share):.2f} %, at the end {share[-1]:.2f} %")
    axes.set(xlabel="activations, millions", ylabel="dead latents, %")
    axes.set_ylim(bottom=0)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out)


def members(folder: Path) -> list[Run]:
    """The runs of a sweep, or the run itself."""
    found = sorted(path.parent for path in (folder / "sweep").glob("*/recipe.toml"))
    return [Run.open(path) for path in found or [folder]]


if __name__ == "__main__":
    main()
