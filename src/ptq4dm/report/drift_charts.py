"""How the inputs of layers drift: their widths over the time-steps, and histograms of a few."""

from collections.abc import Mapping
from typing import Any, Final

from markupsafe import Markup

from ptq4dm.report.heat_map import HeatRow, heat_map
from ptq4dm.report.page import FULL, NARROW
from ptq4dm.report.svg import frame, line, make_axes, nice_range, picture

SHOWN: Final = 4
"""Bands of time-steps whose histograms are drawn."""


def of_question(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of the drift."""
    histograms = [
        {
            "layer": layer["layer"],
            "drift": layer["drift"],
            "charts": [histogram_chart(layer, width) for width in (FULL, NARROW)],
            "legend": band_names(facts, layer),
        }
        for layer in typical_layers(facts)
    ]
    return {
        "charts": [drift_map(facts, width) for width in (FULL, NARROW)],
        "histograms": histograms,
        "smoothed": sum(layer["smoothed"] for layer in facts["layers"]),
        "layers": len(facts["layers"]),
    }


def drift_map(facts: Mapping[str, Any], width: int, most: int = 20) -> Markup:
    """How wide each layer's input is at each band of t, as a share of its widest: the most drifting layers."""
    layers, t = facts["layers"][:most], facts["t"]
    rows = []
    for row in layers:
        widths = widths_of(row)
        widest = max(value for value in widths if value is not None) or 1.0
        shades = [None if value is None else value / widest for value in widths]
        tips = [
            "" if value is None else f"t about {at:.0f}: {value:.3g} wide, {value / widest:.0%} of its widest"
            for at, value in zip(t, widths, strict=True)
        ]
        rows.append(HeatRow(row["layer"], f"{row['drift']:.1f} bit", shades, tips))
    words = "; ".join(f"{row['layer']} {row['drift']:.2f} bits" for row in layers)
    return heat_map("drift", "Width of each layer's input over the time-steps", words, rows, t, width)


def widths_of(row: Mapping[str, Any]) -> list[float | None]:
    """From the 1st to the 99th percentile in each band; None where nothing was seen."""
    low, high = row["percentiles"]["1"], row["percentiles"]["99"]
    return [None if a is None or b is None else b - a for a, b in zip(low, high, strict=True)]


def typical_layers(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The layer that drifts most, and the one in the middle."""
    layers = facts["layers"]
    return [layers[index] for index in dict.fromkeys((0, len(layers) // 2))]


def shown_bands(layer: Mapping[str, Any]) -> list[int]:
    """A few bands that hold values, evenly spaced, from the first to the last."""
    known = [index for index, bins in enumerate(layer["histogram"]["per_10000"]) if bins is not None]
    last = len(known) - 1
    return [known[index] for index in sorted({round(step * last / (SHOWN - 1)) for step in range(SHOWN)})]


def histogram_chart(layer: Mapping[str, Any], width: int, height: int = 240) -> Markup:
    """The histograms of one layer's input in a few bands of time-steps, as shares of the values of a band."""
    found = layer["histogram"]
    curves = [[int(number) / 100 for number in found["per_10000"][band].split()] for band in shown_bands(layer)]
    bins = len(curves[0])
    x = [found["low"] + (index + 0.5) * found["bin"] for index in range(bins)]
    axes = make_axes(width, height, (x[0], x[-1]), nice_range(0, max(map(max, curves)), 4))
    parts = [frame(axes, "input", "% of the values")]
    parts += [line(axes, x, curve, f"series-{index}") for index, curve in enumerate(curves)]
    words = f"From {x[0]:.3g} to {x[-1]:.3g} in {bins} bins; drift {layer['drift']:.2f} bits."
    return picture(f"histogram-{layer['layer']}", width, height, f"Inputs of {layer['layer']}", words, *parts)


def band_names(facts: Mapping[str, Any], layer: Mapping[str, Any]) -> list[str]:
    """What the curves of `histogram_chart` are."""
    return [f"t about {facts['t'][band]:.0f}" for band in shown_bands(layer)]
