"""Small charts as inline SVG in the page's colours: bars of a histogram, lines over training steps.

Drawn here and not by matplotlib because a card has 300 ms and a live page asks every few seconds. Text stays text;
colours are the page's CSS variables. Knows nothing of where figures come from.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from monosem.app.page.render import render, short

MOST_POINTS = 400  # of a line; more would not be seen
WIDTH, HEIGHT = 460.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 10.0, 40.0


class Line(NamedTuple):
    """Values over steps."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False
    colour: int = 0
    """Which of the page's colours for lines."""


class Tick(NamedTuple):
    at: float
    label: str


class Axis(NamedTuple):
    ticks: list[Tick]
    place: Callable[[float], float]
    """Where a value is."""


class Path(NamedTuple):
    """A line in the drawing's own units."""

    label: str
    points: str
    dashed: bool
    colour: int


def line_chart(title: str, lines: Sequence[Line], *, log: bool = False, unit: str = "") -> str:
    """A chart of lines over steps; an empty text where no line has a finite point."""
    kept = [line for line in (_finite(line, log) for line in lines) if line.x]
    if not kept:
        return ""
    x_ticks, x_of = _linear([x for line in kept for x in line.x], LEFT, WIDTH - RIGHT)
    scale = _logarithmic if log else _linear
    y_ticks, y_of = scale([y for line in kept for y in line.y], HEIGHT - BOTTOM, TOP)
    paths = [
        Path(
            line.label,
            " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in zip(*_thin(line), strict=True)),
            line.dashed,
            line.colour % 6,
        )
        for line in kept
    ]
    ends = ", ".join(f"{line.label} ends at {short(line.y[-1])}" for line in kept)
    return render(
        "lines",
        title=title,
        unit=unit,
        alt=f"{title} over training steps: {ends}.",
        paths=paths,
        x_ticks=[tick._replace(at=round(tick.at, 1)) for tick in x_ticks],
        y_ticks=[tick._replace(at=round(tick.at, 1)) for tick in y_ticks],
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        bottom=HEIGHT - BOTTOM,
    )


def bar_chart(title: str, counts: Sequence[float], low: float, high: float, *, axis: str, note: str) -> str:
    """A histogram of equally wide bins from `low` to `high`, its counts on a logarithmic height.

    Args:
        axis: what lies along the bottom.
        note: what is counted, beside the title.
    """
    if not counts or max(counts) <= 0:
        return ""
    most = math.log1p(max(counts))
    wide = (WIDTH - LEFT - RIGHT) / len(counts)
    floor = HEIGHT - BOTTOM
    bars = []
    for place, count in enumerate(counts):
        tall = (floor - TOP) * math.log1p(count) / most
        edges = [low + (high - low) * (place + by) / len(counts) for by in (0, 1)]
        says = f"{short(edges[0])} to {short(edges[1])}: {count:,.0f}"
        bars.append(
            {"x": LEFT + place * wide, "y": floor - tall, "width": max(wide - 1, 1), "tall": tall, "says": says}
        )
    top = max(range(len(counts)), key=counts.__getitem__)
    alt = f"{title}: most values lie at {bars[top]['says'].split(':')[0]}; the largest is {short(high)}"
    return render(
        "bars", title=title, note=note, axis=axis, alt=alt, bars=bars, low=low, high=high, most=max(counts),
        width=WIDTH, height=HEIGHT, left=LEFT, right=WIDTH - RIGHT, floor=floor, top=TOP,
    )  # fmt: skip


def _finite(line: Line, log: bool) -> Line:
    points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y) and (y > 0 or not log)]
    return line._replace(x=[x for x, _ in points], y=[y for _, y in points])


def _thin(line: Line) -> tuple[list[float], list[float]]:
    """Means of neighbours; the last point stays where it is."""
    size = len(line.x)
    if size <= MOST_POINTS:
        return list(line.x), list(line.y)
    edges = [size * part // MOST_POINTS for part in range(MOST_POINTS + 1)]
    parts = list(itertools.pairwise(edges))
    means = [sum(line.y[start:stop]) / (stop - start) for start, stop in parts]
    return [line.x[stop - 1] for _, stop in parts], [*means[:-1], line.y[-1]]


def _linear(values: Sequence[float], start: float, stop: float) -> Axis:
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(abs(high), 1.0):
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2

    def place(value: float) -> float:
        return start + (stop - start) * (value - low) / (high - low)

    return Axis([Tick(place(mark), _said(mark)) for mark in _marks(low, high)], place)


def _logarithmic(values: Sequence[float], start: float, stop: float) -> Axis:
    low, high = math.log10(min(values)), math.log10(max(values))
    if high - low < 0.1:
        low, high = low - 0.05, high + 0.05

    def place(value: float) -> float:
        return start + (stop - start) * (math.log10(value) - low) / (high - low)

    steps = (1, 2, 5) if high - low < 3 else (1,)
    marks = [by * 10.0**decade for decade in range(math.floor(low), math.ceil(high) + 1) for by in steps]
    shown = [mark for mark in marks if low - 1e-9 <= math.log10(mark) <= high + 1e-9]
    if len(shown) < 3:
        shown = _marks(10**low, 10**high)
    return Axis([Tick(place(mark), _said(mark)) for mark in shown], place)


def _marks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, three to seven: multiples of 1, 2 or 5 times a power of ten."""
    decade = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = max(by * decade for by in (1, 2, 5) if by * decade <= (high - low) / 3 * (1 + 1e-9))
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _said(value: float) -> str:
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == ' k' else size):g}{letter}"
    return f"{value:,.6g}"
