"""Time-step-dependent ranges: where the bands of time-steps lie, and how many of them are worth it.

The histograms of a layer stand in fine bands of t. A band of ranges is a run of adjacent fine bands that share one
range per layer; the cuts between them are the same for all layers of a network. The loss of a layer with one range over
the fine bands i..j-1 is

    c(i, j) = min over ranges r of  sum over b in i..j-1 of  m_b · e_b(r),

m_b the share of its values in b and e_b(r) their mean error under r (of a grid of ranges, computed once a band as for
the laws of time-steps, `ranges.many_laws`). What is minimised is the mean over layers of

    sum over bands of c(i, j)  /  c(all),

by dynamic programming over the cuts, exact on that grid (Bellman, "On the approximation of curves by line segments
using dynamic programming", CACM 1961). As few bands are taken as bring `gain` of what the most allowed would bring.
The range of each band is then searched for as any other (`ranges.search`).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from ptq4dm.numerics import ACTIVATION_MAX, asymmetric_params
from ptq4dm.progress import progress
from ptq4dm.ranges.histograms import LayerStatistics, merged
from ptq4dm.ranges.many_laws import ADDITIVE, MERGED, losses
from ptq4dm.ranges.metrics import Metric, RangeRule, make_metric, mse
from ptq4dm.ranges.mixture import mixture_of
from ptq4dm.ranges.search import RATIO, InputRange, pairs, search_range
from ptq4dm.recipe import RangeRecipe

FINER: Final = RATIO**0.5
"""Neighbours among the ends of ranges that cuts are placed by."""
LEAST: Final = 0.02
"""The shortest of those ends, as a share of the smallest extreme of any fine band."""
MOST_ENDS: Final = 80


@dataclass(frozen=True)
class BandedRanges:
    """cuts: rising, one fewer than there are bands; a time-step t is in band `number of cuts <= t`. ranges: by layer,
    one a band. loss: with 1, 2, ... bands, relative to one (of the best cuts for that many)."""

    cuts: tuple[float, ...]
    ranges: Mapping[str, tuple[InputRange, ...]]
    loss: tuple[float, ...]


def banded_ranges(
    statistics: Mapping[str, LayerStatistics],
    recipe: RangeRecipe,
    most: int,
    gain: float,
    shares: Tensor | None = None,
    levels: int = ACTIVATION_MAX,
    shown: bool = False,
) -> BandedRanges | None:
    """Bands for the layers whose statistics are kept in the same fine bands of t; None if one band is enough.

    most: bands at most; gain: the share, up to 1, of their gain that is wanted. shares: (fine bands,) of a law of t;
    None for the samples as collected. levels: 2**bits - 1. Statistics in a single band, of layers that follow the
    time-step alone, are left out.
    """
    fine = max((item.bands for item in statistics.values()), default=1)
    followed = {name: item for name, item in statistics.items() if item.bands == fine}
    if fine == 1 or most == 1:
        return None
    metric = make_metric(recipe.metric, recipe.metric_options)
    masses = {name: mass_of(item, shares) for name, item in followed.items()}
    total = torch.zeros(fine + 1, fine + 1, dtype=torch.float64)
    with progress("bands of time-steps", len(followed), shown) as advance:
        for name, item in followed.items():
            costs = run_losses(item, masses[name], additive(recipe, metric), levels)
            whole = float(costs[0, fine])
            total += costs / whole / len(followed) if whole > 0 else 0.0
            advance(1)
    seen = torch.stack(list(masses.values())).amax(0)
    total[empty_runs(seen)] = math.inf
    cuts = best_cuts(total, most)
    loss = tuple(float(sum(total[i, j] for i, j in itertools.pairwise((0, *inner, fine)))) for inner in cuts)
    inner = cuts[enough(loss, gain) - 1]
    if not inner:
        return None
    edges = next(iter(followed.values())).edges
    runs = list(itertools.pairwise((0, *inner, fine)))
    with progress("choosing ranges", len(followed), shown) as advance:
        ranges = {}
        for name, item in followed.items():
            ranges[name] = tuple(range_of_run(item, masses[name], i, j, metric, levels) for i, j in runs)
            advance(1)
    return BandedRanges(tuple(edges[index] for index in inner), ranges, loss)


def additive(recipe: RangeRecipe, metric: Metric | RangeRule) -> Metric:
    """The recipe's metric where it is a mean over values, so that losses of bands add up; else MSE places the cuts."""
    return mse() if isinstance(metric, RangeRule) or recipe.metric not in ADDITIVE else metric


def mass_of(item: LayerStatistics, shares: Tensor | None) -> Tensor:
    """(bands,) float64: the share of each fine band in a layer's loss; 0 for one without values."""
    values = item.counts.sum(1).double()
    mass = values if shares is None else shares.double() * (values > 0)
    return mass / mass.sum().clamp(min=torch.finfo(torch.float64).tiny)


def run_losses(item: LayerStatistics, mass: Tensor, metric: Metric, levels: int) -> Tensor:
    """(bands + 1, bands + 1) float64: c(i, j) of the module's text above the diagonal, 0 elsewhere."""
    filled = item.positions > 0
    lows, highs = pairs(ends(-item.low[filled]).neg(), ends(item.high[filled]))
    coarser = replace(item, exponent=item.exponent + MERGED, counts=merged(item.counts, MERGED))
    each = losses(coarser, *asymmetric_params(lows, highs, levels), metric, levels) * mass
    summed = torch.cat([each.new_zeros(len(each), 1), each.cumsum(1)], 1)
    found = summed.new_zeros(item.bands + 1, item.bands + 1)
    for start in range(item.bands):
        found[start, start + 1 :] = (summed[:, start + 1 :] - summed[:, start : start + 1]).amin(0).clamp(min=0)
    return found


def ends(extremes: Tensor) -> Tensor:
    """Candidates for one end of a range, in size, by the extremes (bands,) there: from the largest down, and 0."""
    largest, alive = float(extremes.max()), extremes[extremes > 0]
    if largest <= 0:
        return torch.zeros(1)
    number = min(math.ceil(math.log(LEAST * float(alive.min()) / largest) / math.log(FINER)), MOST_ENDS)
    return torch.cat([largest * FINER ** torch.arange(number + 1, dtype=torch.float32), torch.zeros(1)])


def empty_runs(mass: Tensor) -> Tensor:
    """(bands + 1, bands + 1) bool: whether the fine bands i..j-1 hold no values at all."""
    summed = torch.cat([mass.new_zeros(1), (mass > 0).double().cumsum(0)])
    return (summed[None, :] - summed[:, None] == 0).triu(1)


def best_cuts(costs: Tensor, most: int) -> list[tuple[int, ...]]:
    """For 1, 2, ... up to `most` bands: the inner indices that cut 0..bands into runs of the least total cost.

    costs: (bands + 1, bands + 1), of the run i..j-1 at [i, j]; infinite for one that may not be. Where so many bands
    cannot be, the list ends.
    """
    last = len(costs) - 1
    forbidden = torch.ones_like(costs).tril() > 0
    costs = costs.masked_fill(forbidden, math.inf)
    best, origins = costs[0], []
    found: list[tuple[int, ...]] = [()]
    for _ in range(min(most, last) - 1):
        best, origin = (best[:, None] + costs).min(0)
        origins.append(origin)
        if not math.isfinite(float(best[last])):
            break
        cuts, at = [], last
        for back in reversed(origins):
            at = int(back[at])
            cuts.append(at)
        found.append(tuple(reversed(cuts)))
    return found


def enough(loss: Sequence[float], gain: float) -> int:
    """The least number of bands that brings the share `gain` of what the last of `loss` (1, 2, ... bands) brings."""
    wanted = gain * (loss[0] - min(loss))
    return next(number for number, value in enumerate(loss, 1) if loss[0] - value >= wanted)


def range_of_run(
    item: LayerStatistics, mass: Tensor, start: int, end: int, metric: Metric | RangeRule, levels: int
) -> InputRange:
    """The range of one layer over the fine bands start..end-1; over all of them where it saw nothing there."""
    weights = torch.zeros_like(mass)
    weights[start:end] = mass[start:end]
    return search_range(mixture_of(item, weights if bool(weights.any()) else mass), metric, levels)
