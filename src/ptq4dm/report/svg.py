"""The parts of a chart: scales, ticks, axes, marks. Colours are CSS classes, so light and dark both work."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


@dataclass(frozen=True)
class Scale:
    """A linear map of [low, high] to [start, end] in pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of `value`; a range of no width maps to the middle."""
        if self.high == self.low:
            return (self.start + self.end) / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True)
class Axes:
    """A plot area of `width` x `height` pixels with its margins and the scales of x and y."""

    width: int
    height: int
    x: Scale
    y: Scale


def make_axes(
    width: int, height: int, x: tuple[float, float], y: tuple[float, float], left: int = 52, right: int = 20
) -> Axes:
    """Axes over data ranges x and y, with room for labels on the left, below and above."""
    return Axes(width, height, Scale(*x, left, width - right), Scale(*y, height - 40, 24))


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """About `wanted` round numbers (steps of 1, 2, 2.5 or 5 times a power of ten) inside [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def nice_range(low: float, high: float, wanted: int = 5) -> tuple[float, float]:
    """The smallest range between round numbers that holds [low, high]; never of no width."""
    if not high > low:
        return low - 1.0, low + 1.0
    ticks = nice_ticks(low, high, wanted)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def number(value: float) -> str:
    """A tick's label: as few digits as say it."""
    return f"{0.0 if value == 0 else value:.4g}".replace("-", "−")


def frame(
    axes: Axes, x_label: str, y_label: str, tick: Callable[[float], str] = number, x_ticks: int = 5, y_ticks: int = 4
) -> Markup:
    """Horizontal grid lines, tick labels on both sides, and what the axes mean."""
    bottom = axes.height - 40
    parts = []
    for value in nice_ticks(axes.y.low, axes.y.high, y_ticks):
        y = axes.y(value)
        parts.append(f'<line class="grid" x1="{axes.x.start:.1f}" x2="{axes.x.end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(text(axes.x.start - 7, y + 4, tick(value), "tick end"))
    for value in nice_ticks(axes.x.low, axes.x.high, x_ticks):
        x = axes.x(value)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(text(x, bottom + 17, number(value), "tick middle"))
    parts.append(f'<line class="axis" x1="{axes.x.start:.1f}" x2="{axes.x.end:.1f}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(text(axes.x.end, axes.height - 6, x_label, "label end"))
    parts.append(text(2, 13, y_label, "label"))
    return Markup("".join(parts))


def area(axes: Axes, x: Sequence[float], low: Sequence[float], high: Sequence[float], style: str) -> Markup:
    """A filled band between two curves."""
    points = [*zip(x, high), *reversed(list(zip(x, low)))]
    path = " ".join(f"{axes.x(px):.1f},{axes.y(py):.1f}" for px, py in points)
    return Markup('<polygon class="{}" points="{}"/>').format(style, path)


def line(axes: Axes, x: Sequence[float], y: Sequence[float | None], style: str) -> Markup:
    """A curve; it is broken where y is None."""
    runs: list[list[tuple[float, float]]] = [[]]
    for px, py in zip(x, y):
        if py is None:
            runs.append([])
        else:
            runs[-1].append((axes.x(px), axes.y(py)))
    drawn = [" ".join(f"{px:.1f},{py:.1f}" for px, py in run) for run in runs if run]
    return Markup("").join(Markup('<polyline class="{}" points="{}"/>').format(style, points) for points in drawn)


def rule(axes: Axes, y: float, style: str, label: str = "", below: bool = False) -> Markup:
    """A horizontal line across the plot, with a label above or below its right end."""
    place = axes.y(y)
    mark = Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
        style, axes.x.start, axes.x.end, place, place
    )
    return mark + text(axes.x.end, place + (13 if below else -5), label, f"{style}-label end") if label else mark


def box(x: float, y: float, width: float, height: float, style: str, tip: str = "", radius: float = 0) -> Markup:
    """A rectangle, with a tip shown under the pointer."""
    inner = Markup("<title>{}</title>").format(tip) if tip else ""
    return Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="{}">{}</rect>').format(
        style, x, y, max(width, 0.0), max(height, 0.0), radius, inner
    )


def text(x: float, y: float, words: str, style: str) -> Markup:
    """Words at a place; the class says where they are anchored (`middle`, `end`)."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, words)


def picture(key: str, width: int, height: int, title: str, description: str, *parts: Markup) -> Markup:
    """A whole chart with its name and description for those who cannot see it. `key` is unique in the page."""
    ids = f"{escape(key)}-{width}"
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
        'aria-labelledby="{i}-t {i}-d"><title id="{i}-t">{t}</title><desc id="{i}-d">{d}</desc>{parts}</svg>'
    ).format(w=width, h=height, i=ids, t=title, d=description, parts=Markup("").join(parts))
