"""A thousand laws at once choose nearly the ranges that each would choose alone."""

import numpy as np
import pytest
import torch

from ptq4dm.errors import RecipeError
from ptq4dm.numerics import fake_quantize
from ptq4dm.ranges.histograms import Histogram, LayerStatistics
from ptq4dm.ranges.laws import under_law
from ptq4dm.ranges.many_laws import ranges_of_laws
from ptq4dm.ranges.mixture import Mixture, mixture_of
from ptq4dm.ranges.range_table import choose_ranges
from ptq4dm.ranges.search import InputRange
from ptq4dm.recipe import RangeRecipe

BANDS = 5


@pytest.fixture(scope="module")
def statistics() -> dict[str, LayerStatistics]:
    found = {}
    for name, shift in (("both signs", 0.3), ("one sign", None)):
        histogram = Histogram([0, 1, 2, 3, 4, 5], 2)
        for band in range(BANDS):
            x = torch.randn(6, 2, 200, generator=torch.Generator().manual_seed(band)) * (0.3 + band) ** 2
            x = x.abs() if shift is None else x + shift
            histogram.add(x, torch.full((6,), band))
        found[name] = histogram.finish()
    return found


def error(mixture: Mixture, chosen: InputRange, power: float) -> float:
    scale, zero_point = (torch.tensor(float(value)) for value in (chosen.scale, chosen.zero_point))
    values = mixture.values.float()
    return float((fake_quantize(values, scale, zero_point) - values).abs().double().pow(power) @ mixture.weights)


@pytest.mark.parametrize(("metric", "power"), [("mse", 2), ("l1", 1), ("lp", 2.4)])
def test_losses_are_near_those_of_the_search_law_by_law(
    statistics: dict[str, LayerStatistics], metric: str, power: float
) -> None:
    shares = torch.from_numpy(np.random.default_rng(0).dirichlet(np.full(BANDS, 0.5), 12))
    shares[0] = torch.tensor([1.0, 0, 0, 0, 0])
    found = ranges_of_laws(statistics, shares, RangeRecipe(metric=metric))
    for name, item in statistics.items():
        for law, chosen in zip(shares, found[name], strict=True):
            under = under_law(item, law)
            alone = choose_ranges({name: under}, RangeRecipe(metric=metric)).ranges[name]
            mixture = mixture_of(under).split(64)
            assert error(mixture, chosen, power) <= 1.1 * error(mixture, alone, power)


def test_other_metrics_are_refused_with_a_way_out(statistics: dict[str, LayerStatistics]) -> None:
    with pytest.raises(RecipeError, match=r"'kl' is no mean over values.*mse, l1, lp.*band_weights"):
        ranges_of_laws(statistics, torch.ones(1, BANDS), RangeRecipe(metric="kl"))
