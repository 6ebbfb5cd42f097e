"""One weighted histogram of a layer: its bands of time-steps put together under a law of t."""

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from ptq4dm.errors import CalibrationError
from ptq4dm.ranges.histograms import BINS, LayerStatistics


@dataclass(frozen=True)
class Mixture:
    """The non-empty bins of a layer's input: midpoints `values` (bins,) rising, shares `weights` (bins,) that sum to
    1, both float64; the exact extremes `low` and `high`; the bins' `width`."""

    values: Tensor
    weights: Tensor
    low: float
    high: float
    width: float

    @property
    def key(self) -> Hashable:
        """The same for mixtures that are alike to the bit."""
        values, weights = (part.numpy().tobytes() for part in (self.values, self.weights))
        return self.low, self.high, self.width, values, weights

    def quantile(self, share: float) -> float:
        """The value below which `share` of the mass lies, to within a bin."""
        if share <= 0:
            return self.low
        if share >= 1:
            return self.high
        index = torch.searchsorted(self.weights.cumsum(0), torch.tensor(share, dtype=torch.float64))
        return float(self.values[min(int(index), len(self.values) - 1)])

    def split(self, parts: int) -> "Mixture":
        """Each bin as `parts` bins of equal mass: as if values were uniform within a bin."""
        offset = (torch.arange(parts, dtype=torch.float64) + 0.5) / parts - 0.5
        values = (self.values.unsqueeze(1) + offset * self.width).flatten().clamp(self.low, self.high)
        return Mixture(values, self.weights.repeat_interleave(parts) / parts, self.low, self.high, self.width / parts)


def mixture_of(statistics: LayerStatistics, band_weights: Tensor | None = None) -> Mixture:
    """Put the bands together as collected, or with `band_weights` (bands,): the share of each band under a law of t.

    Raises CalibrationError if a band with weight holds no values.
    """
    totals = statistics.counts.sum(1)
    if band_weights is None:
        used = totals > 0
        mass = statistics.counts.sum(0).double()
    else:
        used = band_weights > 0
        check_bands(statistics, used)
        shares = band_weights[used].double() / totals[used].clamp(min=1)
        mass = (shares.unsqueeze(1) * statistics.counts[used]).sum(0)
    if not bool(used.any()):
        raise CalibrationError("a layer's input was empty in every calibration call: check the calibration inputs")
    low, high = float(statistics.low[used].min()), float(statistics.high[used].max())
    width = 2.0**statistics.exponent
    filled = mass.nonzero().squeeze(1)
    values = ((filled - BINS // 2).double() + 0.5).mul_(width).clamp(low, high)
    weights = mass[filled]
    return Mixture(values, weights / weights.sum(), low, high, width)


def check_bands(statistics: LayerStatistics, used: Tensor) -> None:
    """Raise CalibrationError if a band that is used holds no values."""
    if used.shape != (statistics.bands,) or not bool(used.any()):
        raise CalibrationError(f"band weights should be {statistics.bands} numbers, at least one of them above 0")
    for index in (used & (statistics.positions == 0)).nonzero().squeeze(1).tolist():
        low, high = statistics.edges[index : index + 2]
        raise CalibrationError(
            f"no calibration sample lies in the time-steps {low:g} to {high:g}, which the law gives weight: "
            "collect with a law that covers them, such as 'uniform'"
        )
