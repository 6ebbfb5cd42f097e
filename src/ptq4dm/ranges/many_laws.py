"""The ranges of a layer under many laws of time-steps at once.

A metric that is a mean over values is linear in the law: its loss under a law is the mean of its losses in the bands,
weighted by their shares. So the loss of every candidate range is computed once a band, and a thousand laws are one
product of matrices. Candidates: the coarse grid of `ranges.search`, then a fine one around whatever won under any law.
Its ends are FINER apart, where `search_range` goes on: the loss of what is chosen here is a little above that of its
choice: by 1 or 2 % mostly, by 6 % for a law that sees only a hundredth of what others see (the tests hold it within
10 %). The law that is chosen in the end should have its ranges from `choose_ranges`.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from ptq4dm.errors import RecipeError
from ptq4dm.numerics import ACTIVATION_MAX, asymmetric_params, fake_quantize
from ptq4dm.progress import progress
from ptq4dm.ranges.histograms import BINS, LayerStatistics, merged
from ptq4dm.ranges.metrics import Metric, RangeRule, make_metric
from ptq4dm.ranges.mixture import check_bands
from ptq4dm.ranges.search import BUDGET, COARSE, RATIO, InputRange, pairs
from ptq4dm.recipe import RangeRecipe

ADDITIVE: Final = ("mse", "l1", "lp")
"""The metrics that are means over values. They take weights of several bands, (bins, bands), as columns."""
NEAR: Final = 4
"""Fine candidates on each side of a coarse end."""
MOST_ENDS: Final = 64
"""Coarse candidates for one end, at most: down to a millionth of the largest."""
FINER: Final = RATIO ** (1 / NEAR)
"""Neighbours among fine ends."""
MERGED: Final = 2
"""How often bins are merged in pairs for the coarse grid."""
RESOLUTION, PARTS = 1024, 16
"""Bins are split to this resolution of their distance from 0, into so many parts at most."""


def ranges_of_laws(
    statistics: Mapping[str, LayerStatistics], shares: Tensor, recipe: RangeRecipe, shown: bool = False
) -> dict[str, list[InputRange]]:
    """Per layer the range of each law. shares: (laws, bands), what each law gives each band.

    Raises RecipeError for a metric that is no mean over values: ranges by those are chosen one law at a time.
    """
    if recipe.metric not in ADDITIVE:
        raise RecipeError(
            f"metric {recipe.metric!r} is no mean over values, so laws cannot be compared in one pass: accepted are "
            f"{', '.join(ADDITIVE)}; or call choose_ranges with band_weights, law by law"
        )
    metric = make_metric(recipe.metric, recipe.metric_options)
    assert not isinstance(metric, RangeRule)  # none of ADDITIVE
    found = {}
    with progress("ranges of laws", len(statistics), shown) as advance:
        for name, item in statistics.items():
            found[name] = layer_ranges(item, shares.double() / shares.sum(1, keepdim=True).double(), metric)
            advance(1)
    return found


def layer_ranges(
    item: LayerStatistics, shares: Tensor, metric: Metric, levels: int = ACTIVATION_MAX
) -> list[InputRange]:
    """The range of one layer under each of (laws, bands) shares that sum to 1."""
    used = shares.sum(0) > 0
    check_bands(item, used)
    lows, highs = pairs(coarse_ends(-item.low[used]).neg(), coarse_ends(item.high[used]))
    coarser = replace(item, exponent=item.exponent + MERGED, counts=merged(item.counts, MERGED))
    coarse = losses(coarser, *asymmetric_params(lows, highs, levels), metric, levels)
    winners = (coarse @ shares.T).argmin(0).unique()
    steps = FINER ** torch.arange(-NEAR, NEAR + 1, dtype=torch.float32)
    around = [pairs(lows[index] * steps, highs[index] * steps) for index in winners.tolist()]
    lows, highs = (torch.cat(side) for side in zip(*around, strict=True))
    scale, zero_point = asymmetric_params(lows, highs, levels)
    fine = losses(item, scale, zero_point, metric, levels) @ shares.T
    best, loss = fine.argmin(0), fine.amin(0)
    return [
        InputRange(s, int(z), -z * s, (levels - z) * s, least)
        for s, z, least in zip(scale[best].tolist(), zero_point[best].tolist(), loss.tolist(), strict=True)
    ]


def coarse_ends(extremes: Tensor) -> Tensor:
    """Candidates for one end of a range, in size: RATIO apart from the largest extreme of any band (bands,) down to
    where `search_range` would start for the smallest; and 0, for laws without values on that side."""
    largest, alive = float(extremes.max()), extremes[extremes > 0]
    if largest <= 0:
        return torch.zeros(1)
    further = math.log(float(alive.min()) / largest) / math.log(RATIO)
    number = min(COARSE + math.ceil(further), MOST_ENDS)
    return torch.cat([largest * RATIO ** torch.arange(number + 1, dtype=torch.float32), torch.zeros(1)])


def losses(item: LayerStatistics, scale: Tensor, zero_point: Tensor, metric: Metric, levels: int) -> Tensor:
    """(candidates, bands) float64: the loss of each candidate over the values of each band; 0 for an empty band."""
    values, counts = resolved(item)
    weights = counts / counts.sum(1, keepdim=True).clamp(min=1)
    weights = weights.T.float().contiguous()
    parts = []
    for s, z in zip(*(part.split(max(1, BUDGET // len(values))) for part in (scale, zero_point)), strict=True):
        quantized = fake_quantize(values, s.unsqueeze(1), z.unsqueeze(1), 0, levels)
        parts.append(metric(values, weights, quantized).double())
    return torch.cat(parts)


def resolved(item: LayerStatistics) -> tuple[Tensor, Tensor]:
    """Values (n,) rising and their counts (bands, n): the filled bins, as if values were uniform within each, those
    near 0 in up to PARTS parts. So a law that sees small values only has bins finer than the steps of its range."""
    filled = item.counts.sum(0).nonzero().squeeze(1)
    middle = (filled - BINS // 2).double() + 0.5
    parts = (RESOLUTION / middle.abs()).ceil().clamp(1, PARTS).long()
    within = torch.arange(int(parts.sum())) - (parts.cumsum(0) - parts).repeat_interleave(parts)
    offset = (within.double() + 0.5) / parts.repeat_interleave(parts) - 0.5
    values = (middle.repeat_interleave(parts) + offset) * 2.0**item.exponent
    counts = (item.counts[:, filled].double() / parts).repeat_interleave(parts, 1)
    return values.clamp(float(item.low.min()), float(item.high.max())).float(), counts
