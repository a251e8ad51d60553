"""Charts of a run's activation tracking: as SVG for the report, as PNG for a metrics tracker.

Both are drawn by the same code from the figures of `tracking_figures`; a run without intervals has no charts. The heat
map is one colour that grows opaque, so that it stands on light and on dark paper.
"""

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import FuncFormatter, MaxNLocator

from monosem.charts import FAINT, INK, LINES, STYLE, Chart, canvas, svg
from monosem.train import tracking_figures as tracked
from monosem.train.tracking import Interval
from monosem.train.tracking_figures import Bands, HeatMap, Turnover

PRINT = {INK: "#1f1d1a", FAINT: "#dcd7cd", LINES[0]: "#c2551c", LINES[1]: "#2a6f97"}
"""Colours of a PNG, which no page colours."""
HEAT = (0.80, 0.36, 0.13)
SHADES = 24
COLUMNS = 120  # pixels of the heat map from left to right

Lines = tuple[str, str]


class Drawing(NamedTuple):
    """A chart before it has colours."""

    name: str
    title: str
    alt: str
    draw: Callable[[Axes, Lines], None]


def tracking_charts(intervals: Sequence[Interval], window: int) -> list[Chart]:
    """Charts for the report.

    Args:
        intervals: of `train.tracking.read`.
        window: activations of silence that make a latent dead.
    """
    charts = []
    for drawing in _drawings(intervals, window):
        with mpl.rc_context(STYLE):
            figure, axes = canvas()
            drawing.draw(axes, LINES)
            charts.append(Chart(drawing.title, drawing.alt, svg(figure, drawing.name)))
    return charts


def tracking_pictures(intervals: Sequence[Interval], window: int) -> dict[str, bytes]:
    """The same charts as PNG files by name, on white."""
    pictures = {}
    style = {key: PRINT.get(value, value) if isinstance(value, str) else value for key, value in STYLE.items()}
    for drawing in _drawings(intervals, window):
        with mpl.rc_context(style):
            figure, axes = canvas()
            figure.suptitle(drawing.title, x=0.01, ha="left")
            drawing.draw(axes, (PRINT[LINES[0]], PRINT[LINES[1]]))
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
            pictures[drawing.name] = buffer.getvalue()
    return pictures


def _drawings(intervals: Sequence[Interval], window: int) -> list[Drawing]:
    if not intervals:
        return []
    pooled = tracked.pool(intervals)
    density, turnover, heat = tracked.density_bands(pooled), tracked.turnover(pooled, window), tracked.heat_map(pooled)
    mean, maximum = tracked.mean_bands(pooled), tracked.maximum_bands(pooled)
    return [
        Drawing(
            "density-over-training",
            "Density over training",
            f"How often a latent fires, over training steps: the median of log10 ends at {_last(density)}; bands hold "
            "the middle half and the middle 90 % of the latents that fired.",
            lambda axes, lines: _draw_density(axes, lines, density),
        ),
        Drawing(
            "turnover",
            f"Births and deaths ({_short(window)} tokens)",
            f"Latents over training steps: {turnover.dead[-1]:,} are dead at the end, silent for {window:,} "
            f"activations; {turnover.born.sum():,} were born, {turnover.died.sum():,} died, "
            f"{turnover.revived.sum():,} were revived.",
            lambda axes, lines: _draw_turnover(axes, lines, turnover),
        ),
        Drawing(
            "values-over-training",
            "Values over training",
            f"A latent's mean and largest value, over training steps: the medians end at {_last(mean)} and "
            f"{_last(maximum)}; bands hold the middle 90 % of the latents that fired.",
            lambda axes, lines: _draw_values(axes, lines, mean, maximum),
        ),
        Drawing(
            "heat-map",
            "Firing of every latent",
            f"Heat map of {heat.latents:,} latents over training steps, in the order of their first firing and then of "
            f"their density; {heat.never:,} never fired.",
            lambda axes, _lines: _draw_heat(axes, heat),
        ),
    ]


def _draw_density(axes: Axes, lines: Lines, bands: Bands) -> None:
    low, lower, median, upper, high = bands.quantiles
    axes.fill_between(bands.steps, low, high, color=lines[0], alpha=0.18, linewidth=0, label="90 %")
    axes.fill_between(bands.steps, lower, upper, color=lines[0], alpha=0.32, linewidth=0, label="half")
    axes.plot(bands.steps, median, color=lines[0], linewidth=1.4, marker=_marker(bands), label="median")
    axes.set_ylabel("log10 of density")
    _steps(axes)
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _draw_turnover(axes: Axes, lines: Lines, turnover: Turnover) -> None:
    few = "o" if len(turnover.steps) < 3 else None
    for counts, label, colour, dashes in (
        (turnover.dead, "dead", lines[0], "-"),
        (turnover.died, "died", lines[0], ":"),
        (turnover.born, "born", lines[1], "-"),
        (turnover.revived, "revived", lines[1], ":"),
    ):
        axes.plot(turnover.steps, counts, color=colour, linestyle=dashes, linewidth=1.4, marker=few, label=label)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=-0.2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylabel("latents")
    _steps(axes)
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=1.2, handlelength=1.6)


def _draw_values(axes: Axes, lines: Lines, mean: Bands, maximum: Bands) -> None:
    for bands, label, colour in ((maximum, "largest", lines[0]), (mean, "mean", lines[1])):
        axes.fill_between(bands.steps, bands.quantiles[0], bands.quantiles[-1], color=colour, alpha=0.22, linewidth=0)
        axes.plot(
            bands.steps,
            bands.quantiles[2],
            color=colour,
            linewidth=1.4,
            marker=_marker(bands),
            label=f"{label}, median",
        )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("value")
    _steps(axes)
    axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _draw_heat(axes: Axes, heat: HeatMap) -> None:
    low, high = int(heat.edges[0]), int(heat.edges[-1])
    # intervals may differ in length: even columns of steps, each showing the interval that its middle is in
    columns = min(COLUMNS, high - low)
    middles = low + (np.arange(columns) + 0.5) * (high - low) / columns
    shown = heat.density[:, np.searchsorted(heat.edges, middles, side="right") - 1]
    shown = np.ma.log10(np.ma.masked_equal(shown, 0.0))
    lowest, highest = np.quantile(shown.compressed(), (0.02, 0.98)) if shown.count() else (-1.0, 0.0)
    image = axes.imshow(
        shown,
        cmap=ListedColormap([(*HEAT, 0.06 + 0.94 * shade / (SHADES - 1)) for shade in range(SHADES)]),
        vmin=lowest,
        vmax=max(highest, lowest + 0.1),
        interpolation="none",
        aspect="auto",
        extent=(low, high, heat.latents, 0),
    )
    axes.grid(visible=False)
    axes.set_ylabel("latents")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _steps(axes)
    bar = axes.figure.colorbar(image, ax=axes, label="log10 of density", pad=0.02)
    bar.outline.set_visible(False)
    assert bar.solids is not None
    bar.solids.set_rasterized(True)  # one small image, not a path for every shade
    bar.ax.grid(visible=False)


def _steps(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _marker(bands: Bands) -> str | None:
    """A line of one point is not seen."""
    return "o" if len(bands.steps) < 3 else None


def _last(bands: Bands) -> str:
    """The median at the end, in words for the case that no latent fired."""
    value = bands.quantiles[2, -1]
    return f"{value:.3g}" if np.isfinite(value) else "nothing, as no latent fired"


def _short(number: int) -> str:
    """1 M, 250 k: as one says it."""
    for size, letter in ((10**6, " M"), (10**3, " k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return str(number)
