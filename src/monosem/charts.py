"""Charts as inline SVG that follows the page's colours, the same bytes for the same figures.

matplotlib draws with placeholder colours, which become `currentColor` and CSS variables; text stays text, in the page's
font. Knows nothing of where the figures come from.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

INK, FAINT = "#010101", "#020202"
LINES = ("#030303", "#040404")
CSS = {INK: "currentColor", FAINT: "var(--rule)", LINES[0]: "var(--line-1)", LINES[1]: "var(--line-2)"}
MOST_POINTS = 300  # of a curve; more would not be seen
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "monosem",  # ids would be random without it
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "font.size": 9.5,
    "legend.frameon": False,
    "path.simplify": False,
}


class Chart(NamedTuple):
    """One chart."""

    title: str
    alt: str
    """What it shows, in words, for those who do not see it."""
    svg: str


class Curve(NamedTuple):
    """A line of a chart."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]


@mpl.rc_context(STYLE)
def line_chart(name: str, title: str, curves: Sequence[Curve], log: bool = False) -> Chart:
    """Values over training steps."""
    figure, axes = canvas()
    for curve, colour in zip(curves, LINES, strict=False):
        x, y = _thin(curve.steps, curve.values)
        marker = "o" if len(x) < 3 else None  # a line of one point is not seen
        axes.plot(x, y, color=colour, linewidth=1.4, marker=marker, markersize=4, label=curve.label)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-3, 5))
    axes.set_xlabel("step")
    if len(curves) > 1:
        axes.legend()
    ends = ", ".join(f"{curve.label} ends at {curve.values[-1]:.4g}" for curve in curves)
    return Chart(title, f"{title} over training steps: {ends}.", svg(figure, name))


@mpl.rc_context(STYLE)
def density_chart(density: NDArray[np.float64], dead: int) -> Chart:
    """How often latents fire: a histogram of log10 density over the live ones."""
    figure, axes = canvas()
    axes.hist(np.log10(density), bins=40, color=LINES[0])
    axes.set_xlabel("log10 of the share of tokens on which a latent fires")
    axes.set_ylabel("latents")
    alt = (
        f"Histogram over {len(density):,} live latents; the median fires on {np.median(density):.3g} of all tokens; "
        f"{dead:,} are dead."
    )
    return Chart("Density", alt, svg(figure, "density"))


def training_charts(metrics: Sequence[Mapping[str, float]]) -> list[Chart]:
    """The curves that `metrics.jsonl` holds; a figure that no line has gives no chart."""
    wanted = (
        ("loss", "Loss", (("loss", "train"),), False),
        ("fvu", "FVU", (("fvu", "train"), ("validation_fvu", "validation")), True),
        ("dead", "Dead latents", (("dead", "dead"),), False),
        ("lr", "Learning rate", (("lr", "rate"),), False),
    )
    charts = []
    for name, title, lines, log in wanted:
        curves = [curve for key, label in lines if (curve := _curve(metrics, key, label)).values]
        if curves:
            charts.append(line_chart(name, title, curves, log and all(min(curve.values) > 0 for curve in curves)))
    return charts


@mpl.rc_context(STYLE)
def distribution_chart(
    name: str, title: str, label: str, own: NDArray[np.float64], shuffled: NDArray[np.float64], told: str
) -> Chart:
    """One figure of many latents, as a histogram, over that of their shuffled explanations.

    Args:
        label: of the axis.
        told: what the text for those who do not see it ends with.
    """
    figure, axes = canvas()
    bins = np.linspace(min(own.min(), shuffled.min()), max(own.max(), shuffled.max()), 41)
    axes.hist(own, bins=bins, color=LINES[0], label="explanations", alpha=0.75)
    axes.hist(shuffled, bins=bins, color=LINES[1], label="shuffled", histtype="step", linewidth=1.6)
    axes.set_xlabel(label)
    axes.set_ylabel("latents")
    axes.legend()
    alt = (
        f"Histogram over {len(own):,} latents of {label}: the median is {np.median(own):.3g}, with other latents' "
        f"explanations {np.median(shuffled):.3g}. {told}"
    )
    return Chart(title, alt, svg(figure, name))


def _curve(metrics: Sequence[Mapping[str, float]], key: str, label: str) -> Curve:
    rows = [row for row in metrics if key in row and np.isfinite(row[key])]
    return Curve(label, [row["step"] for row in rows], [row[key] for row in rows])


def _thin(x: Sequence[float], y: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of neighbouring points, so that noise does not fill the file; the last point stays."""
    parts = np.array_split(np.arange(len(x)), min(len(x), MOST_POINTS))
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return np.array([xs[part[-1]] for part in parts]), np.array([ys[part].mean() for part in parts])


def canvas() -> tuple[Figure, Axes]:
    """An empty figure of the report's size."""
    figure = Figure(figsize=(4.6, 2.5), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def svg(figure: Figure, name: str) -> str:
    """The figure as an element to stand within a page: no header, no background, ids of its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r' (xmlns(:\w+)?|version|width|height)="[^"]*"', "", svg, count=5)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in CSS.items():
        svg = svg.replace(colour, variable)
    return re.sub(r">\s+<", "><", svg)
