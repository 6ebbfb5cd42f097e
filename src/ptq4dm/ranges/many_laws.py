"""The ranges of a layer under many laws of time-steps at once.

A metric that is a mean over values is linear in the law: its loss under a law is the mean of its losses in the bands,
weighted by their shares. So the loss of every candidate range is computed once a band, and a thousand laws are one
product of matrices. Candidates: the coarse grid of `ranges.search`, then a fine one around whatever won under any law.
Its ends are FINER apart, where `search_range` goes on: the loss of what is chosen here is a little above that of its
choice (the tests hold it within 1 %).
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from ptq4dm.errors import RecipeError
from ptq4dm.numerics import ACTIVATION_MAX, asymmetric_params, fake_quantize
from ptq4dm.progress import progress
from ptq4dm.ranges.histograms import BINS, LayerStatistics
from ptq4dm.ranges.metrics import Metric, RangeRule, make_metric
from ptq4dm.ranges.search import BUDGET, COARSE, RATIO, InputRange, pairs
from ptq4dm.recipe import RangeRecipe

ADDITIVE: Final = ("mse", "l1", "lp")
"""The metrics that are means over values. They take weights of several bands, (bins, bands), as columns."""
NEAR: Final = 4
"""Fine candidates on each side of a coarse end."""
FINER: Final = RATIO ** (1 / NEAR)
"""Neighbours among fine ends."""


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
    low, high = float(item.low[used].min()), float(item.high[used].max())
    fractions = RATIO ** torch.arange(COARSE + 1, dtype=torch.float32)
    lows, highs = pairs(ends(low, fractions, -1.0), ends(high, fractions, 1.0))
    coarse = losses(item, *asymmetric_params(lows, highs, levels), metric, levels)
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


def ends(extreme: float, fractions: Tensor, side: float) -> Tensor:
    """Candidates for one end of a range, from the extreme towards 0; 0 alone where no value lies on that side."""
    return extreme * fractions if extreme * side > 0 else torch.zeros(1)


def losses(item: LayerStatistics, scale: Tensor, zero_point: Tensor, metric: Metric, levels: int) -> Tensor:
    """(candidates, bands) float64: the loss of each candidate over the values of each band; 0 for an empty band."""
    filled = item.counts.sum(0).nonzero().squeeze(1)
    width = 2.0**item.exponent
    lowest, highest = float(item.low.min()), float(item.high.max())
    values = (((filled - BINS // 2).double() + 0.5) * width).clamp(lowest, highest).float()
    weights = item.counts[:, filled].double()
    weights = (weights / weights.sum(1, keepdim=True).clamp(min=1)).T.float().contiguous()
    parts = []
    for s, z in zip(*(part.split(max(1, BUDGET // len(values))) for part in (scale, zero_point)), strict=True):
        quantized = fake_quantize(values, s.unsqueeze(1), z.unsqueeze(1), 0, levels)
        parts.append(metric(values, weights, quantized).double())
    return torch.cat(parts)
