"""One pass for all laws of time-steps: statistics kept by band, put together under any law p(t).

A sweep visits every time-step of a trajectory as often as any other and keeps what it sees in bands. Under a law the
values of band b have the share P(b) = the sum of p(t) over the visits t in b, spread evenly over these visits. That is
what direct collection of the same samples gives,

* exactly, for laws that are constant over the visits of each band: for all laws if every visit has a band of its own
  (where a law leaves out the bands with the largest values, direct collection may have bins 2^k times finer: the
  mixture is then that with its bins merged, and a value is known to half a bin of the sweep's grid);
* else within a distance of distributions of

      D = 1/2 · the sum over visits t of |p(t) - P(b(t)) / n_b(t)|,     n_b the visits in b,

  so that for every range the mean of an error e(x) that lies in [0, E] differs by at most D · E. (A difference of two
  means of e is at most the total-variation distance of their distributions times the width of e's values; for MSE
  E is the largest squared error of any value seen.) That bounds the metrics that are such means: L1, MSE, L_p. The
  share of any set of values differs by at most D, hence a percentile is one of a share within D of its own; minimum
  and maximum are those of the bands that the law visits. Cosine and KL, which are no means, have no such bound.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ptq4dm.errors import CalibrationError
from ptq4dm.ranges.histograms import ONE_BAND, LayerStatistics, band_of, merged
from ptq4dm.ranges.mixture import check_bands
from ptq4dm.ranges.saved_statistics import AS_THEY_ARE


def sweep_edges(visited: Tensor, bands: int) -> tuple[float, ...]:
    """Edges of at most `bands` bands over visited time-steps: the first and the last visit, where clipping piles
    samples, have bands of their own; the others share the rest as evenly as they can. Edges lie between visits."""
    t = visited.double().unique()
    if len(t) < 2:
        return ONE_BAND
    inner = len(t) - 2
    groups = min(max(bands - 2, 1), inner)
    starts = [0, *sorted({1 + index * inner // groups for index in range(groups)} if inner else ()), len(t) - 1]
    middles = [float(t[start - 1] + t[start]) / 2 for start in starts[1:]]
    return (float(t[0]), *middles, float(t[-1]) + 1.0)


def band_shares(shares: Tensor, visited: Tensor, edges: Sequence[float]) -> Tensor:
    """(bands,) float64: the share of each band, given that of each visit (visits,)."""
    return torch.zeros(len(edges) - 1, dtype=torch.float64).index_add_(0, band_of(visited, edges), shares.double())


def law_distance(shares: Tensor, visited: Tensor, edges: Sequence[float]) -> float:
    """D of the module's text: how far a law is from being constant in each band; 0 means that the mixture is exact."""
    band = band_of(visited, edges)
    visits = torch.bincount(band, minlength=len(edges) - 1).clamp(min=1)
    even = band_shares(shares, visited, edges)[band] / visits[band]
    return float((shares.double() - even).abs().sum() / 2)


def under_law(statistics: LayerStatistics, shares: Tensor) -> LayerStatistics:
    """The statistics in one band, each band of `statistics` with its share (bands,): as if collected under that law.

    Counts become float64; there are as many values as in all. Raises CalibrationError: a band with a share but no
    values.
    """
    shares = shares.double() / shares.sum()
    used = shares > 0
    check_bands(statistics, used)
    values, positions = statistics.counts.sum(1), int(statistics.positions.sum())
    if not bool(values[used].all()):
        raise CalibrationError("a layer's input was empty in some calibration calls: check the calibration inputs")
    of_counts = shares * int(values.sum()) / values.clamp(min=1)
    of_sums = (shares * positions / statistics.positions.clamp(min=1)).unsqueeze(0)
    return LayerStatistics(
        ONE_BAND,
        statistics.exponent,
        (of_counts[used].unsqueeze(0) @ statistics.counts[used].double()),
        statistics.low[used].amin(0, keepdim=True),
        statistics.high[used].amax(0, keepdim=True),
        of_sums @ statistics.channel_sum,
        of_sums @ statistics.channel_square,
        statistics.channel_largest[used].amax(0, keepdim=True),
        torch.tensor([positions]),
        statistics.smoothing,
    )


def joined(parts: Sequence[LayerStatistics], edges: Sequence[float]) -> LayerStatistics:
    """Statistics of one band each, collected apart, as the bands between `edges`: to the bit what collecting them
    together gives, since bins are merged in pairs exactly."""
    exponent = max(part.exponent for part in parts)
    return LayerStatistics(
        tuple(edges),
        exponent,
        torch.cat([merged(part.counts, exponent - part.exponent) for part in parts]),
        *(torch.cat([getattr(part, name) for part in parts]) for name in AS_THEY_ARE),
        smoothing=parts[0].smoothing,
    )
