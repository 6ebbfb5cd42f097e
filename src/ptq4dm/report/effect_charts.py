"""The chart of w(t): what an error of a call does to the final picture (`calibration.step_weights`)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from markupsafe import Markup

from ptq4dm.report.charts import TIME
from ptq4dm.report.svg import Axes, frame, line, make_axes, nice_range, number, picture

LOWEST: Final = 1e-6
"""Weights below this share of the largest are drawn there: the axis is logarithmic."""


def study_weights(facts: Mapping[str, Any], width: int) -> Markup:
    """w(t) of the errors of a rounded network and of white noise, from the facts of the question `auto`."""
    return weights_chart([facts["weights"], facts["white"]], width, ("series-0", "series-1"))


def weights_chart(
    measured: Sequence[Mapping[str, Any]], width: int, styles: Sequence[str] = ("law",), height: int = 250
) -> Markup:
    """w(t) of each entry as a curve on a logarithmic axis; of the first, dots where it was measured, with two standard
    errors."""
    largest = max(max(item["weights"]) for item in measured)
    floor = LOWEST * largest
    logs = [[math.log10(max(value, floor)) for value in item["weights"]] for item in measured]
    end = max(max(item["timesteps"]) for item in measured)
    low, high = nice_range(min(map(min, logs)), max(map(max, logs)), 4)
    axes = make_axes(width, height, (0, end), (low, high))
    parts = [frame(axes, TIME, "change of the picture per unit of error", lambda value: number(10**value))]
    for item, values, style in zip(measured, logs, styles, strict=True):
        points = sorted(zip(item["timesteps"], values, strict=True))
        parts.append(line(axes, [t for t, _ in points], [value for _, value in points], style))
    parts.append(dots(axes, measured[0], floor))
    first = sorted(zip(measured[0]["weights"], measured[0]["timesteps"], strict=True))
    words = (
        f"Largest at t = {first[-1][1]:.0f}: {first[-1][0]:.3g}; smallest at t = {first[0][1]:.0f}: {first[0][0]:.3g}."
    )
    return picture("weights", width, height, "What an error at each time-step does to the picture", words, *parts)


def dots(axes: Axes, item: Mapping[str, Any], floor: float) -> Markup:
    """The measured weights with two standard errors."""
    parts = []
    for index, error in zip(item["measured"], item["standard_errors"], strict=True):
        value, x = item["weights"][index], axes.x(item["timesteps"][index])
        ends = [value - 2 * error, value, value + 2 * error]
        low, middle, high = (axes.y(min(max(math.log10(max(each, floor)), axes.y.low), axes.y.high)) for each in ends)
        parts.append(Markup('<path class="whisker" d="M{:.1f},{:.1f}V{:.1f}"/>').format(x, low, high))
        parts.append(Markup('<circle class="law-dot" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(x, middle))
    return Markup("").join(parts)
