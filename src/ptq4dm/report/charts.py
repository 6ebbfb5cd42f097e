"""The charts of the page: numbers in, inline SVG out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from ptq4dm.report.law import LawDensity
from ptq4dm.report.svg import area, box, frame, line, make_axes, nice_range, number, picture, rule, text
from ptq4dm.report.words import milliseconds, percent, times

TIME = "time-step t"


def range_chart(row: Mapping[str, Any], width: int = 340, height: int = 230) -> Markup:
    """An activation's spread against t: minimum to maximum, 1st to 99th percentile, and the one range chosen."""
    t, low, high = row["t"], row["min"], row["max"]
    bottom, top = min(*low, row["low"]), max(*high, row["high"])
    axes = make_axes(width, height, (t[0], t[-1]), nice_range(bottom, top, 4))
    layers = [frame(axes, TIME, "activation"), area(axes, t, low, high, "spread-wide")]
    if row.get("p01") and row.get("p99"):
        layers.append(area(axes, t, row["p01"], row["p99"], "spread-narrow"))
    layers.append(rule(axes, row["high"], "chosen"))
    layers.append(rule(axes, row["low"], "chosen"))
    words = (
        f"Between t = {t[0]:.0f} and {t[-1]:.0f} the values run from {min(low):.3g} to {max(high):.3g}; the one range "
        f"of the quantized layer is {row['low']:.3g} to {row['high']:.3g}."
    )
    return picture(f"range-{row['layer']}", width, height, f"Inputs of {row['layer']} against t", words, *layers)


def timestep_chart(
    drawn: Sequence[int], visited: Sequence[int], total: int, density: LawDensity | None, width: int, height: int = 250
) -> Markup:
    """Histogram of the drawn time-steps, the law's expected counts over it, the visited time-steps as ticks below."""
    bins = 20 if width < 500 or len(drawn) < 100 else 40
    counts, edges = np.histogram(drawn, bins=bins, range=(0, total))
    curve = [value * len(drawn) * total / bins for value in density.density] if density else []
    ends = clipped_ends(density, len(drawn), total, bins) if density else []
    axes = make_axes(
        width, height, (0, total), nice_range(0, max([*counts, *curve, *(height for _, height in ends)]), 5)
    )
    bars = [
        box(
            axes.x(left) + 0.6,
            axes.y(value),
            axes.x(right) - axes.x(left) - 1.2,
            axes.y(0) - axes.y(value),
            "bar",
            f"t {left:.0f} to {right:.0f}: {value} samples",
            1,
        )
        for value, left, right in zip(counts, edges, edges[1:])
    ]
    law = [line(axes, density.t, curve, "law")] if density else []
    law += [
        Markup('<circle class="law-dot" cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(axes.x(t), axes.y(n))
        for t, n in ends
    ]
    marks = [box(axes.x(t) - 0.5, axes.y(0) + 1, 1, 5, "visited") for t in sorted(set(visited))]
    words = f"{len(drawn)} time-steps drawn in [0, {total - 1}], median {np.median(drawn):.0f}."
    title = "Drawn time-steps and the law that they were drawn from"
    return picture("timesteps", width, height, title, words, frame(axes, TIME, "samples"), *bars, *law, *marks)


def clipped_ends(density: LawDensity, samples: int, total: int, bins: int) -> list[tuple[float, float]]:
    """(t, expected samples) of the first and the last bar, with what clipping moves there."""
    ends = ((0.5, density.below, density.density[0]), (bins - 0.5, density.above, density.density[-1]))
    return [(at * total / bins, samples * (mass + value * total / bins)) for at, mass, value in ends if mass > 0.005]


def curve_chart(
    key: str, title: str, t: Sequence[float], values: Sequence[float | None], unit: str, floor: float | None, width: int
) -> Markup:
    """One curve over t with its floor, if it has one; `values` in the unit shown."""
    order = np.argsort(t)
    x, y = [t[i] for i in order], [values[i] for i in order]
    known = [value for value in y if value is not None]
    marks = [*known, floor] if floor is not None else known
    zero = unit == "%"
    axes = make_axes(width, 240, (0, max(x)), nice_range(0 if zero else min(marks), max(marks), 5))
    layers = [frame(axes, TIME, unit), line(axes, x, y, "curve")]
    if floor is not None:
        layers.append(rule(axes, floor, "floor"))
    words = f"From {min(known):.3g} to {max(known):.3g} {unit} over {len(x)} time-steps."
    return picture(key, width, 240, title, words, *layers)


def engines_chart(rows: Sequence[Mapping[str, Any]], width: int) -> Markup:
    """Time of a call by engine: a bar each, its spread as a whisker, INT8 in the colour of INT8."""
    high = max(row.get("seconds_high") or row["seconds_median"] for row in rows)
    left, pitch, height = 8, 50, 50 * len(rows) + 8
    axes = make_axes(width, height, (0, high * 1.0), (0, 1), left, 74)
    parts = []
    for index, row in enumerate(sorted(rows, key=lambda row: -row["seconds_median"])):
        y = 8 + index * pitch
        end = axes.x(row["seconds_median"])
        style = "bar-int8" if row["precision"] == "INT8" else "bar-float"
        parts.append(text(left, y + 11, f"{row['engine']} {row['precision']}", "name"))
        parts.append(box(left, y + 17, end - left, 18, style, radius=2))
        low_end, high_end = (axes.x(row.get(f"seconds_{side}") or row["seconds_median"]) for side in ("low", "high"))
        parts.append(whisker(low_end, high_end, y + 26))
        parts.append(text(max(end, high_end) + 7, y + 31, milliseconds(row["seconds_median"]), "value"))
    fastest = min(rows, key=lambda row: row["seconds_median"])
    words = f"Fastest: {fastest['engine']} {fastest['precision']}, {milliseconds(fastest['seconds_median'])}."
    return picture("engines", width, height, "Time of one call by engine", words, *parts)


def ratios_chart(ratios: Sequence[Mapping[str, Any]], limit: float | None, width: int) -> Markup:
    """How many times faster INT8 is than each baseline, with the interval, 1x (no gain), and the predicted limit."""
    top = max([ratio.get("high") or ratio["value"] for ratio in ratios] + ([limit] if limit else []))
    left, pitch, height = 10, 46, 46 * len(ratios) + 44
    lowest = min(1.0, *(0.95 * (ratio.get("low") or ratio["value"]) for ratio in ratios))
    axes = make_axes(width, height, (lowest, top * 1.04), (0, 1), left, 58)
    parts = [mark(axes.x(1), height, "even", "1×, no gain", "start" if axes.x(1) < 60 else "middle")]
    if limit:
        parts.append(mark(axes.x(limit), height, "limit", f"limit {times(limit)}"))
    for index, ratio in enumerate(ratios):
        y = 10 + index * pitch
        at, low, high = axes.x(ratio["value"]), ratio.get("low"), ratio.get("high")
        parts.append(text(left + 8, y + 11, ratio["name"], "name halo"))
        if low is not None and high is not None:
            parts.append(whisker(axes.x(low), axes.x(high), y + 26))
        parts.append(Markup('<circle class="dot" cx="{:.1f}" cy="{}" r="6"/>').format(at, y + 26))
        parts.append(text(max(at + 8, axes.x(high or ratio["value"])) + 5, y + 31, times(ratio["value"]), "value halo"))
    words = "; ".join(f"{ratio['name']} {times(ratio['value'])}" for ratio in ratios)
    words += f"; predicted limit {times(limit)}" if limit else ""
    return picture("ratios", width, height, "How many times faster INT8 is", words, *parts)


def layers_chart(layers: Sequence[Mapping[str, Any]], width: int, height: int = 210) -> Markup:
    """The error of every layer, in the order of the network: one column each."""
    top = max(layer["relative_l2"] for layer in layers)
    axes = make_axes(width, height, (0, len(layers)), nice_range(0, 100 * top or 1, 4))
    step = axes.x(1) - axes.x(0)
    columns = [
        box(
            axes.x(index) + 0.1 * step,
            axes.y(100 * layer["relative_l2"]),
            0.8 * step,
            axes.y(0) - axes.y(100 * layer["relative_l2"]),
            "bar-int8",
            f"{layer['name']}: {percent(layer['relative_l2'])}",
        )
        for index, layer in enumerate(layers)
    ]
    worst = max(layers, key=lambda layer: layer["relative_l2"])
    words = f"{len(layers)} layers; the largest error is {percent(worst['relative_l2'])}, of {worst['name']}."
    grid = frame(axes, "layer, from input to output", "%", number)
    return picture("layers", width, height, "Error of each quantized layer", words, grid, *columns)


def whisker(low: float, high: float, y: float) -> Markup:
    """A spread: a thin line with two short ends."""
    path = f"M{low:.1f},{y - 4:.1f}v8M{low:.1f},{y:.1f}H{high:.1f}M{high:.1f},{y - 4:.1f}v8"
    return Markup('<path class="whisker" d="{}"/>').format(path)


def mark(x: float, height: int, style: str, label: str, anchor: str = "middle") -> Markup:
    """A vertical line through a chart with its label below."""
    shape = Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="4" y2="{}"/>').format(style, x, x, height - 20)
    return shape + text(x, height - 6, label, f"{style}-label {anchor}")
