"""How the inputs of layers drift with the time-step: the reason for calibrating over time-steps.

For a layer, with q_b(s) the value below which the share s of its inputs in band b lies, and w_b = q_b(99 %) - q_b(1 %)
the width of what it sees there, ::

    drift = log2( max_b w_b / min_b w_b )

in bits: 0 for a layer that sees the same at every t; 1 where a range that holds the widest band wastes half of the
levels, hence one of the eight bits, in the narrowest. The time-step's own layers are left out: their input is the same
for every picture. `inf` is never given: widths are at least one bin of the histogram. An input is what a layer rounds:
where channels are smoothed, after the division by their factors, which are the same at all time-steps.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from ptq4dm.ranges.histograms import LayerStatistics
from ptq4dm.ranges.mixture import Mixture, mixture_of
from ptq4dm.studies.cases import Case
from ptq4dm.studies.study import Study

PERCENTILES: Final = (1, 25, 50, 75, 99)
TAIL: Final = 0.001
"""The share of the values on either side, in the band where they reach farthest, that the end bins hold."""
BINS: Final = 64
"""Bins of a histogram that is kept."""
WHOLE: Final = 10_000
"""What the bins of a band add up to, but for rounding."""


def drift(study: Study) -> Sequence[Case]:
    """One case: facts of every layer."""
    return [Case("drift", "inputs of layers", {"bands": study.settings.bands}, lambda: drift_of_study(study))]


def drift_of_study(study: Study) -> dict[str, Any]:
    """The facts: by layer its drift, and minimum, maximum, percentiles and histogram of its input against t; the most
    drifting first."""
    rows = [layer_drift(name, item) for name, item in study.sweep.statistics.items()]
    rows = sorted((row for row in rows if row), key=lambda row: -row["drift"])
    numbers = [row["drift"] for row in rows]
    return {
        "facts": {
            "t": band_middles(next(iter(study.sweep.statistics.values()))),
            "trajectories": study.settings.trajectories,
            "median": float(np.median(numbers)),
            "most": max(numbers),
            "layers": rows,
        }
    }


def layer_drift(name: str, item: LayerStatistics) -> dict[str, Any]:
    """One layer's facts; of bands without values they are None."""
    mixtures = [band_mixture(item, index) for index in range(item.bands)]
    widths = [width_of(mixture) for mixture in mixtures if mixture]
    return {
        "layer": name,
        "drift": drift_of(widths),
        "smoothed": item.smoothing is not None,
        "min": [mixture.low if mixture else None for mixture in mixtures],
        "max": [mixture.high if mixture else None for mixture in mixtures],
        "percentiles": {
            str(percent): [mixture.quantile(percent / 100) if mixture else None for mixture in mixtures]
            for percent in PERCENTILES
        },
        "histogram": coarse(mixtures),
    }


def coarse(mixtures: Sequence[Mixture | None]) -> dict[str, Any]:
    """A histogram for each band on one grid, that of bin i reaching from low + i bin to low + (i + 1) bin. The end bins
    hold what lies beyond, too. per_10000: of each band the bins as a text of whole numbers, None where it is empty."""
    known = [mixture for mixture in mixtures if mixture]
    low = min(mixture.quantile(TAIL) for mixture in known)
    high = max(mixture.quantile(1 - TAIL) for mixture in known)
    width = max((high - low) / BINS, *(mixture.width for mixture in known))

    def counted(mixture: Mixture) -> str:
        index = ((mixture.values - low) / width).floor().long().clamp(0, BINS - 1)
        shares = torch.zeros(BINS, dtype=torch.float64).index_add_(0, index, mixture.weights)
        return " ".join(map(str, (WHOLE * shares).round().long().tolist()))

    return {"low": low, "bin": width, "per_10000": [counted(mixture) if mixture else None for mixture in mixtures]}


def drift_of(widths: Sequence[float]) -> float:
    """The formula above, of the widths of the bands."""
    return float(np.log2(max(widths) / min(widths)))


def width_of(mixture: Mixture) -> float:
    """From the 1st to the 99th percentile, at least one bin."""
    return max(mixture.quantile(0.99) - mixture.quantile(0.01), mixture.width)


def band_mixture(item: LayerStatistics, band: int) -> Mixture | None:
    """The values of one band; None if there are none."""
    if int(item.positions[band]) == 0:
        return None
    only = torch.zeros(item.bands, dtype=torch.float64)
    only[band] = 1
    return mixture_of(item, only)


def band_middles(item: LayerStatistics) -> list[float]:
    """The middle of each band, where bands have ends."""
    return [(low + high) / 2 if np.isfinite(high - low) else 0.0 for low, high in zip(item.edges, item.edges[1:])]
