"""Histograms that stream: bounded memory, one bin grid a layer, counts kept apart by band of time-steps.

Bins are as wide as a power of two and aligned at 0. When a value falls outside the grid the width doubles and
neighbours merge, which is exact: floor(v / 2w) = floor(floor(v / w) / 2). So the result depends on the set of values
only, never on their order or on how they were batched.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 8192
"""Bins of a grid; half of them lie below 0."""
MIN_EXPONENT = -60
"""Bins are never narrower than 2**MIN_EXPONENT, so that an all-zero tensor has a grid too."""
ONE_BAND = (-math.inf, math.inf)
"""The edges of a single band that holds every time-step."""
CHUNK = 1 << 23
"""Values counted at once: float32 counts them exactly up to 2**24."""


@dataclass(frozen=True)
class LayerStatistics:
    """What a layer's input looked like, per band of time-steps.

    edges: (bands + 1,) rising. exponent: bins are 2**exponent wide. counts: (bands, BINS) int64, bin i holds
    [(i - BINS/2) w, (i + 1 - BINS/2) w). low, high: (bands,) float64 exact extremes, inf / -inf where a band is empty.
    channel_sum, channel_square: (bands, channels) float64 sums of x and x**2 per input channel. channel_largest:
    (bands, channels) float64, the largest |x|. positions: (bands,) int64, how many values each channel had.
    smoothing: (channels,) float32 that x was divided by before all this; None if it was not.
    """

    edges: tuple[float, ...]
    exponent: int
    counts: Tensor
    low: Tensor
    high: Tensor
    channel_sum: Tensor
    channel_square: Tensor
    channel_largest: Tensor
    positions: Tensor
    smoothing: Tensor | None = None

    @property
    def bands(self) -> int:
        """How many bands of time-steps."""
        return len(self.edges) - 1

    def channel_mean(self, band_weights: Tensor | None = None) -> Tensor:
        """(channels,) float64 mean of the input per channel, over all samples or under another law of t."""
        return mixed(self.channel_sum, self.positions, band_weights)

    def channel_second_moment(self, band_weights: Tensor | None = None) -> Tensor:
        """(channels,) float64 mean of the squared input per channel."""
        return mixed(self.channel_square, self.positions, band_weights)


class Histogram:
    """Collects the LayerStatistics of one layer, batch by batch."""

    def __init__(self, edges: Sequence[float], channels: int, smoothing: Tensor | None = None):
        bands = len(edges) - 1
        self.edges = tuple(float(edge) for edge in edges)
        self.exponent = MIN_EXPONENT
        self.counts = torch.zeros(bands, BINS, dtype=torch.int64)
        self.low = torch.full((bands,), math.inf, dtype=torch.float64)
        self.high = torch.full((bands,), -math.inf, dtype=torch.float64)
        self.channel_sum = torch.zeros(bands, channels, dtype=torch.float64)
        self.channel_square = torch.zeros(bands, channels, dtype=torch.float64)
        self.channel_largest = torch.zeros(bands, channels, dtype=torch.float64)
        self.smoothing = smoothing
        self.positions = torch.zeros(bands, dtype=torch.int64)

    @staticmethod
    def of(statistics: LayerStatistics) -> "Histogram":
        """One that goes on where `finish` gave these statistics."""
        histogram = Histogram(statistics.edges, statistics.channel_sum.shape[1], statistics.smoothing)
        histogram.exponent = statistics.exponent
        for name in ("counts", "low", "high", "channel_sum", "channel_square", "channel_largest", "positions"):
            setattr(histogram, name, getattr(statistics, name).clone())
        return histogram

    def add(self, x: Tensor, band: Tensor) -> None:
        """Count `x`, finite, (rows, channels, positions), each row in its band: `band` is (rows,) int64."""
        if self.smoothing is not None:
            x = x / self.smoothing.to(x.device).unsqueeze(1)
        present = band.unique().tolist()
        for index in present:
            rows = x if len(present) == 1 else x[band == index]
            step = max(1, CHUNK // max(1, rows[0].numel()))
            for start in range(0, len(rows), step):
                self.add_rows(rows[start : start + step], index)

    def add_rows(self, x: Tensor, band: int) -> None:
        """Count rows that all belong to one band."""
        if not x.numel():
            return
        lowest, highest = (bound.double().cpu() for bound in (x.amin(dim=(0, 2)), x.amax(dim=(0, 2))))
        low, high = float(lowest.min()), float(highest.max())
        self.widen(required_exponent(max(-low, high)))
        self.counts[band] += count(x, self.exponent)
        self.low[band] = min(float(self.low[band]), low)
        self.high[band] = max(float(self.high[band]), high)
        self.channel_sum[band] += x.sum(dim=2).double().sum(dim=0).cpu()
        self.channel_square[band] += x.square().sum(dim=2).double().sum(dim=0).cpu()
        self.channel_largest[band] = torch.maximum(self.channel_largest[band], torch.maximum(-lowest, highest))
        self.positions[band] += x.shape[0] * x.shape[2]

    def widen(self, exponent: int) -> None:
        """Merge bins until they are at least 2**exponent wide."""
        if exponent > self.exponent:
            self.counts = merged(self.counts, exponent - self.exponent)
            self.exponent = exponent

    def finish(self) -> LayerStatistics:
        """The statistics so far."""
        return LayerStatistics(
            self.edges,
            self.exponent,
            self.counts.clone(),
            self.low.clone(),
            self.high.clone(),
            self.channel_sum.clone(),
            self.channel_square.clone(),
            self.channel_largest.clone(),
            self.positions.clone(),
            self.smoothing,
        )


def required_exponent(magnitude: float) -> int:
    """The least exponent whose grid holds every value up to `magnitude` in size."""
    if magnitude <= 0:
        return MIN_EXPONENT
    return max(MIN_EXPONENT, math.frexp(magnitude)[1] - int(math.log2(BINS // 2)))


def count(x: Tensor, exponent: int) -> Tensor:
    """(BINS,) int64: how many values of `x` fall in each bin. Exact: the division is by a power of two."""
    index = (x * 2.0**-exponent).floor_()
    if exponent > 0:  # a tiny negative value may underflow to -0, yet belongs below 0
        index = torch.where(x < 0, index.clamp(max=-1), index)
    index.add_(BINS // 2)
    if index.device.type == "cpu":  # integers are counted eight times as fast
        return torch.bincount(index.to(torch.int32).flatten(), minlength=BINS)
    return torch.histc(index.flatten(), BINS, 0, BINS).to(torch.int64).cpu()


def merged(counts: Tensor, doublings: int) -> Tensor:
    """`counts` (bands, BINS) on a grid whose bins are 2**doublings times as wide."""
    factor = 2 ** min(doublings, int(math.log2(BINS // 2)))
    middle = counts.reshape(counts.shape[0], BINS // factor, factor).sum(2)
    wide = torch.zeros_like(counts)
    start = (BINS - middle.shape[1]) // 2
    wide[:, start : start + middle.shape[1]] = middle
    return wide


def band_edges(bands: int, low: float, high: float) -> tuple[float, ...]:
    """Edges of `bands` equal bands over the time-steps [low, high], continuous ones too; one band if there is no width.

    For a discrete model: `band_edges(bands, 0, num_train_timesteps)`.
    """
    if bands == 1 or not high > low:
        return ONE_BAND
    return tuple(low + (high - low) * index / bands for index in range(bands + 1))


def band_of(timesteps: Tensor, edges: Sequence[float]) -> Tensor:
    """(N,) int64: the band of every time-step; those outside the edges go to the first or last band."""
    inner = torch.tensor(edges[1:-1], dtype=torch.float64)
    return torch.bucketize(timesteps.detach().cpu().double().reshape(-1).contiguous(), inner, right=True)


def mixed(sums: Tensor, totals: Tensor, band_weights: Tensor | None) -> Tensor:
    """Mean over bands of `sums` (bands, ...) given `totals` (bands,): as collected, or each band with its weight."""
    if band_weights is None:
        return sums.sum(0) / totals.sum().clamp(min=1)
    share = band_weights / band_weights.sum()
    return ((share / totals.clamp(min=1)).unsqueeze(1) * sums).sum(0)
