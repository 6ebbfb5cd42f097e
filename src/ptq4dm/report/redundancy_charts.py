"""The charts of `redundancy`: noise of layers over t, growth along the trajectory, shares of the error."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from markupsafe import Markup

from ptq4dm.report.heat_map import HeatRow, heat_map, shortened
from ptq4dm.report.page import FULL, NARROW
from ptq4dm.report.svg import area, box, frame, line, make_axes, nice_range, picture, text
from ptq4dm.report.words import decibels, percent
from ptq4dm.studies.redundancy_sentences import GROWTH, NOISE, SENTENCES, SHARES

MOST: Final = 20
"""Layers in a chart, at most; the table holds all."""
NOISE_HEAD: Final = ("layer", "input", "worst of input", "output", "worst of output", "default recipe")
SHARE_HEAD: Final = ("layer", "share of the error", "of the multiply-adds", "default recipe")


def parts_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the page shows of each row: title, sentence, charts, what they mean, a legend, a table."""
    drawn = {NOISE: noise_part, GROWTH: growth_part, SHARES: share_part}
    return [
        {
            "title": row["variant"][0].upper() + row["variant"][1:],
            "sentence": SENTENCES[row["variant"]](row["facts"]),
            "legend": [],
            "head": (),
            "table": [],
            **drawn[row["variant"]](row["facts"]),
        }
        for row in rows
    ]


def noise_part(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The heat map of outputs and the table of inputs and outputs."""
    rows = [
        [row["layer"], decibels_or(row["input_all"]), decibels_or(least(row["input"])),
         decibels_or(row["output_all"]), decibels_or(least(row["output"])), placed(row)]
        for row in facts["layers"]
    ]  # fmt: skip
    low, high = ends_of(facts["layers"][:MOST])
    caption = (
        f"Each cell: signal over quantization noise of the layer's output at that time-step, from {low:.0f} dB (dark) "
        f"to {high:.0f} dB (light), over {facts['n']} held-out pictures; the float network's input in both, so that it "
        "is the layer's own noise. The number is over all time-steps. The noisiest layers."
    )
    return {"charts": [noise_map(facts, width) for width in (FULL, NARROW)], "caption": caption,
            "head": NOISE_HEAD, "table": rows}  # fmt: skip


def noise_map(facts: Mapping[str, Any], width: int) -> Markup:
    """The noisiest layers' outputs over t; the darker the noisier."""
    layers = facts["layers"][:MOST]
    low, high = ends_of(layers)
    order = sorted(range(len(facts["t"])), key=lambda index: facts["t"][index])
    t = [facts["t"][index] for index in order]
    rows = []
    for row in layers:
        values = [row["output"][index] for index in order]
        shades = [None if value is None else (high - value) / max(high - low, 1e-9) for value in values]
        tips = [f"t = {at:.0f}: {decibels_or(value)}" for at, value in zip(t, values, strict=True)]
        rows.append(HeatRow(row["layer"], decibels_or(row["output_all"]), shades, tips))
    words = "; ".join(f"{row['layer']} {decibels_or(row['output_all'])}" for row in layers)
    return heat_map("noise", "Signal over quantization noise of layers over the time-steps", words, rows, t, width)


def growth_part(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The two curves."""
    caption = (
        f"Relative L2 against the float network with two standard errors over {facts['n']} held-out pictures: of x_t "
        "where the INT8 network walks by itself (the dot: its picture), and of a call at the float network's x_t."
    )
    return {
        "charts": [growth_chart(facts, width) for width in (FULL, NARROW)],
        "caption": caption,
        "legend": ["x_t, walking by itself", "a single call"],
    }


def growth_chart(facts: Mapping[str, Any], width: int, height: int = 260) -> Markup:
    """The errors of x_t and of single calls, step by step, and of the picture."""
    curves = [facts["x_t"], facts["call"]]
    end = facts["picture"]["mean"]
    steps = list(range(len(facts["t"])))
    top = max(*(value for curve in curves for value in curve["mean"]), end)
    axes = make_axes(width, height, (0, len(steps)), nice_range(0, 110 * top or 1, 4))
    parts = [frame(axes, "step, from noise to picture", "%")]
    for index, curve in enumerate(curves):
        low, high = (
            [
                min(max(100 * (value + side * 2 * error), 0.0), axes.y.high)
                for value, error in zip(curve["mean"], curve["standard_error"], strict=True)
            ]
            for side in (-1, 1)
        )
        parts.append(area(axes, steps, low, high, f"band-{index}"))
        parts.append(line(axes, steps, [100 * value for value in curve["mean"]], f"series-{index}"))
    dot = Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="5"/>')
    parts.append(dot.format(axes.x(len(steps)), axes.y(100 * end)))
    words = f"x_t ends at {percent(curves[0]['mean'][-1])}, the picture at {percent(end)}."
    return picture("growth", width, height, "Error along the trajectory", words, *parts)


def share_part(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The bars and the table of all layers."""
    rows = [[row["layer"], percent(row["share"]), percent(row["macs"]), placed(row)] for row in facts["layers"]]
    caption = (
        f"Share of the squared error of the network's output that a layer makes when it alone is in INT8, over "
        f"{len(facts['t'])} time-steps of {facts['n']} held-out pictures, and its share of the multiply-adds. Grey: "
        "left in float by the default recipe."
    )
    return {"charts": [shares_chart(facts, width) for width in (FULL, NARROW)], "caption": caption,
            "head": SHARE_HEAD, "table": rows}  # fmt: skip


def shares_chart(facts: Mapping[str, Any], width: int) -> Markup:
    """A bar for each of the layers with the largest shares."""
    layers = facts["layers"][:MOST]
    top = max(row["share"] for row in layers) or 1.0
    left, pitch, height = 8, 36, 36 * len(layers) + 8
    axes = make_axes(width, height, (0, top), (0, 1), left, 150 if width < 500 else 190)
    parts = []
    for index, row in enumerate(layers):
        y = 6 + index * pitch
        end = axes.x(row["share"])
        name = shortened(row["layer"]) if width < 500 else row["layer"]
        parts.append(text(left, y + 10, name, "name halo"))
        parts.append(box(left, y + 15, max(end - left, 1), 12, "bar-float" if row["left_in_float"] else "bar-int8"))
        value = f"{percent(row['share'], 2)} for {percent(row['macs'], 2)}"
        parts.append(text(end + 7, y + 26, value, "value halo"))
    words = "; ".join(f"{row['layer']} {percent(row['share'])}" for row in layers)
    return picture("shares", width, height, "Share of the error by layer", words, *parts)


def ends_of(layers: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The smallest and the largest ratio of the outputs in any cell."""
    values = [value for row in layers for value in row["output"] if value is not None] or [0.0]
    return min(values), max(values)


def least(values: Sequence[float | None]) -> float | None:
    """The smallest of the values that there are."""
    return min((value for value in values if value is not None), default=None)


def decibels_or(value: float | None) -> str:
    """Decibels; "no noise" where there is none (or no signal)."""
    return "no noise" if value is None else decibels(value)


def placed(row: Mapping[str, Any]) -> str:
    """Where the default recipe runs a layer."""
    return "float" if row["left_in_float"] else "INT8"
