"""A heat map of layers against time-steps."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from ptq4dm.report.charts import TIME
from ptq4dm.report.svg import Scale, box, picture, text

TICKS: Final = 250
"""Labels of the axis stand at multiples of this, about four of them."""


@dataclass(frozen=True)
class HeatRow:
    """One layer. name: in full; label: what stands beside it. shades: 0 (light) to 1 (dark) at each time-step, None for
    an empty cell; tips: what the pointer shows, as many."""

    name: str
    label: str
    shades: Sequence[float | None]
    tips: Sequence[str]


def heat_map(key: str, title: str, words: str, rows: Sequence[HeatRow], t: Sequence[float], width: int) -> Markup:
    """Rows of cells over t (ascending), each with its name; on a phone names stand above their cells."""
    narrow = width < 500
    left, pitch, top = (8, 26, 8) if narrow else (310, 15, 8)
    height = top + pitch * len(rows) + 40
    edges = [0.0, *((a + b) / 2 for a, b in itertools.pairwise(t)), t[-1] + (t[-1] - t[0]) / max(2 * len(t), 1) + 0.5]
    scale = Scale(0, edges[-1], left, width - 16)
    parts = []
    for index, row in enumerate(rows):
        y = top + index * pitch
        where = (left, y + 10) if narrow else (left - 8, y + 11)
        name = shortened(row.name) if narrow else row.name
        parts.append(text(*where, f"{name}  {row.label}", "tick" if narrow else "tick end"))
        for band, (shade, tip) in enumerate(zip(row.shades, row.tips, strict=True)):
            if shade is None:
                continue
            x, end = scale(edges[band]), scale(edges[band + 1])
            cell = box(x, y + (12 if narrow else 1), end - x + 0.3, 12, "heat", f"{row.name}, {tip}")
            parts.append(Markup('<g fill-opacity="{:.3f}">{}</g>').format(max(shade, 0.03), cell))
    quarter = TICKS * max(1, round(edges[-1] / (4 * TICKS)))
    for value in range(0, 5 * quarter, quarter):
        if value <= edges[-1] + 1:
            parts.append(text(scale(min(value, edges[-1])), height - 22, str(value), "tick middle"))
    parts.append(text(width - 16, height - 6, TIME, "label end"))
    return picture(key, width, height, title, words, *parts)


def shortened(name: str) -> str:
    """A layer's name in few letters."""
    return name.replace("_blocks", "").replace("attentions", "attn").replace("resnets", "res")
