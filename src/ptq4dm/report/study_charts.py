"""The charts of a study: rows against the default recipe, errors over t."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from markupsafe import Markup

from ptq4dm.report.charts import TIME, whisker
from ptq4dm.report.svg import Scale, area, frame, line, make_axes, nice_range, nice_ticks, number, picture, text
from ptq4dm.report.words import decibels, percent, signed
from ptq4dm.studies.readings import outcome_of
from ptq4dm.studies.rows import verdict_of

PITCH: Final = 38
STYLES: Final = {"better": "dot-better", "worse": "dot-worse", "no difference": "dot-same", "unknown": "dot-same"}
SMALLEST: Final = 1e-6
"""Relative errors below it are drawn there: the axis is logarithmic."""


def rows_chart(question: str, rows: Sequence[Mapping[str, Any]], default: float | None, width: int) -> Markup:
    """The error of a call of each row on a logarithmic axis, with the interval of its difference from the baseline."""
    known = [row for row in rows if row.get("call", {}).get("relative_l2")]
    values = [row["call"]["relative_l2"]["mean"] for row in known] + ([default] if default else [])
    spans = [span_of(row) for row in known]
    least = min(values, default=0.01)
    low = max(min([least, *(span[0] for span in spans if span)]), least / 3)  # an interval may reach down to 0
    high = max([*values, *(span[1] for span in spans if span)], default=0.1)
    height = PITCH * len(rows) + 48
    scale = Scale(math.log10(max(low, SMALLEST)) - 0.05, math.log10(max(high, SMALLEST)) + 0.05, 12, width - 74)
    parts = [ticks(scale, height)]
    if default:
        x = place(scale, default)
        parts.append(Markup('<line class="limit" x1="{:.1f}" x2="{:.1f}" y1="4" y2="{}"/>').format(x, x, height - 40))
    for index, row in enumerate(rows):
        parts.append(row_marks(row, scale, 6 + index * PITCH))
    words = "; ".join(f"{row['variant']} {value_of(row)}" for row in rows)
    return picture(f"rows-{question}", width, height, "Error of a call by variant, logarithmic", words, *parts)


def distances_chart(rows: Sequence[Mapping[str, Any]], width: int) -> Markup:
    """The difference of a distance from the data for each network, with its interval. rows: `variant`, `difference`,
    `low` and `high` (None where there is none)."""
    ends = [row[key] for row in rows for key in ("difference", "low", "high") if row[key] is not None]
    low, high = nice_range(min(0.0, *ends), max(0.0, *ends), 5)
    height = PITCH * len(rows) + 48
    scale = Scale(low, high, 12, width - 74)
    parts: list[Markup] = []
    for at in nice_ticks(low, high, 5):
        style = "limit" if at == 0 else "grid"
        x = scale(at)
        parts.append(
            Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="4" y2="{}"/>').format(style, x, x, height - 40)
        )
        parts.append(text(x, height - 24, number(at), "tick middle"))
    parts.append(text(scale.end, height - 6, "difference from the float model", "label end"))
    for index, row in enumerate(rows):
        y, x = 6 + index * PITCH, scale(row["difference"])
        known = row["low"] is not None
        style = STYLES[verdict_of({"low": row["low"], "high": row["high"]} if known else None, False)]
        parts.append(text(12, y + 12, row["variant"], "name halo"))
        if known:
            parts.append(whisker(scale(row["low"]), scale(row["high"]), y + 24))
        parts.append(Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="5"/>').format(style, x, y + 24))
        parts.append(text((scale(row["high"]) if known else x) + 9, y + 28, signed(row["difference"]), "value halo"))
    words = "; ".join(f"{row['variant']} {signed(row['difference'])}" for row in rows)
    return picture(
        "rows-distribution", width, height, "Distance from the data less that of the float model", words, *parts
    )


def row_marks(row: Mapping[str, Any], scale: Scale, y: float) -> Markup:
    """One row: its name, a dot, its interval, its value."""
    parts = [text(12, y + 12, row["variant"], "name halo")]
    call = (row.get("call") or {}).get("relative_l2")
    if not call:
        return parts[0] + text(12, y + 28, value_of(row), "tick")
    span, x = span_of(row), place(scale, call["mean"])
    end = x
    if span:
        end = place(scale, span[1])
        parts.append(whisker(max(place(scale, span[0]), scale.start), end, y + 24))
    style = STYLES[outcome_of(row)] if row["baseline"] else "dot"
    parts.append(Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="5"/>').format(style, x, y + 24))
    parts.append(text(max(end, x) + 9, y + 28, value_of(row), "value halo"))
    return Markup("").join(parts)


def span_of(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """The interval of the difference, laid around the row's own value."""
    call = (row.get("call") or {}).get("relative_l2") or {}
    found = call.get("difference")
    if not found:
        return None
    low, high = (max(call["mean"] + found[end] - found["value"], SMALLEST) for end in ("low", "high"))
    return low, high


def value_of(row: Mapping[str, Any]) -> str:
    """A row's value as words."""
    if "not_applicable" in row:
        return "not applicable"
    call = row["call"].get("relative_l2")
    if call:
        return percent(call["mean"])
    return f"no call differs; pictures {decibels(row['picture']['psnr']['mean'])}"


def place(scale: Scale, value: float) -> float:
    """Where an error stands."""
    return scale(math.log10(max(value, SMALLEST)))


def ticks(scale: Scale, height: int) -> Markup:
    """Grid lines at 1, 2 and 5 times powers of ten, with percentages below."""
    parts = []
    for power in range(math.floor(scale.low), math.ceil(scale.high) + 1):
        for factor in (1, 2, 5):
            at = math.log10(factor) + power
            if scale.low <= at <= scale.high:
                x = scale(at)
                parts.append(
                    Markup('<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="4" y2="{}"/>').format(x, x, height - 40)
                )
                if factor == 1 or scale.high - scale.low < 1.7:
                    parts.append(text(x, height - 24, f"{100 * factor * 10.0**power:g} %", "tick middle"))
    parts.append(text(scale.end, height - 6, "relative L2 of a call, logarithmic", "label end"))
    return Markup("").join(parts)


def curves_chart(question: str, rows: Sequence[Mapping[str, Any]], width: int, height: int = 260) -> Markup:
    """The error of a call over t of some rows, each with a band of two standard errors."""
    top = max(100 * max(row["curve"]["relative_l2"]) for row in rows)
    end = max(max(row["curve"]["t"]) for row in rows)
    axes = make_axes(width, height, (0, end), nice_range(0, top, 4))
    parts = [frame(axes, TIME, "%")]
    for index, row in enumerate(rows):
        curve = row["curve"]
        points = sorted(zip(curve["t"], curve["relative_l2"], curve["standard_error"], strict=True))
        t = [point[0] for point in points]
        low, high = (
            [min(max(100 * (value + side * 2 * error), 0.0), axes.y.high) for _, value, error in points]
            for side in (-1, 1)
        )
        parts.append(area(axes, t, low, high, f"band-{index}"))
        parts.append(line(axes, t, [100 * value for _, value, _ in points], f"series-{index}"))
    words = "; ".join(f"{row['variant']}: mean {percent(row['call']['relative_l2']['mean'])}" for row in rows)
    return picture(f"curves-{question}", width, height, "Error of a call over the time-steps", words, *parts)


def psnr_chart(question: str, rows: Sequence[Mapping[str, Any]], width: int, height: int = 240) -> Markup:
    """The PSNR of a call over t of some rows; a curve is broken where all calls are identical."""
    known = [value for row in rows for value in row["curve"]["psnr"] if value is not None]
    end = max(max(row["curve"]["t"]) for row in rows)
    axes = make_axes(width, height, (0, end), nice_range(min(known, default=0), max(known, default=1), 4))
    parts = [frame(axes, TIME, "dB")]
    for index, row in enumerate(rows):
        points = sorted(zip(row["curve"]["t"], row["curve"]["psnr"], strict=True))
        parts.append(line(axes, [t for t, _ in points], [value for _, value in points], f"series-{index}"))
    words = "; ".join(f"{row['variant']}: mean {decibels(row['call']['psnr']['mean'])}" for row in rows)
    return picture(f"psnr-{question}", width, height, "PSNR of a call over the time-steps", words, *parts)
