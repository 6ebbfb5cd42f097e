"""Bands of time-steps with ranges of their own, against brute force over every partition and raw values."""

import itertools
import math

import numpy as np
import pytest
import torch

from ptq4dm.ranges.histograms import ONE_BAND, Histogram, LayerStatistics
from ptq4dm.ranges.metrics import mse
from ptq4dm.ranges.mixture import mixture_of
from ptq4dm.ranges.search import search_range
from ptq4dm.ranges.time_bands import banded_ranges, best_cuts, enough, mass_of, run_losses
from ptq4dm.recipe import RangeRecipe

WIDTHS = (1.0, 1.1, 6.0, 6.0, 5.5, 0.1)
"""Of the values in each fine band: two clear changes, one small one."""


def values_of(band: int) -> torch.Tensor:
    return torch.randn(2, 2, 300, generator=torch.Generator().manual_seed(band)) * WIDTHS[band]


def statistics_of(bands: range | tuple[int, ...], edges: tuple[float, ...]) -> LayerStatistics:
    histogram = Histogram(edges, 2)
    for index, band in enumerate(bands):
        place = min(index, len(edges) - 2)
        histogram.add(values_of(band), torch.full((2,), place))
    return histogram.finish()


@pytest.fixture(scope="module")
def drifting() -> LayerStatistics:
    return statistics_of(range(6), (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0))


@pytest.mark.parametrize("seed", range(5))
def test_no_partition_costs_less(seed: int) -> None:
    costs = torch.from_numpy(np.random.default_rng(seed).random((7, 7)))
    costs[0, 1] = math.inf  # no run of the first alone
    for number, cuts in enumerate(best_cuts(costs, 5), 1):
        every = {
            inner: float(sum(costs[i, j] for i, j in itertools.pairwise((0, *inner, 6))))
            for inner in itertools.combinations(range(1, 6), number - 1)
        }
        assert every[cuts] == pytest.approx(min(every.values())) and len(cuts) == number - 1


def test_where_so_many_bands_cannot_be_the_list_ends() -> None:
    costs = torch.full((4, 4), math.inf)
    costs[0, 3], costs[0, 2], costs[2, 3] = 5.0, 1.0, 1.0
    assert best_cuts(costs, 3) == [(), (2,)]


def test_the_loss_of_a_run_is_near_that_of_the_range_searched_for_it(drifting: LayerStatistics) -> None:
    """The grid is coarser than the search, its ends a tenth apart, and so are its bins."""
    mass = mass_of(drifting, None)
    costs = run_losses(drifting, mass, mse(), 255)
    for i, j in ((0, 6), (0, 2), (2, 5), (5, 6)):
        weights = torch.zeros(6, dtype=torch.float64)
        weights[i:j] = mass[i:j]
        alone = search_range(mixture_of(drifting, weights), mse()).loss * float(weights.sum())
        assert 0.9 * alone <= float(costs[i, j]) <= 1.2 * alone


def test_the_least_number_that_brings_enough() -> None:
    loss = (1.0, 0.5, 0.45, 0.41, 0.4)
    assert [enough(loss, gain) for gain in (0.5, 0.83, 0.9, 0.99, 1.0)] == [2, 2, 3, 5, 5]
    assert enough((1.0, 1.0, 1.0), 0.9) == enough((1.0,), 1.0) == 1


def test_cuts_lie_where_the_values_change_and_each_band_has_the_range_of_its_own_values(
    drifting: LayerStatistics,
) -> None:
    constant = statistics_of((3,), ONE_BAND)
    found = banded_ranges({"a": drifting, "of time": constant}, RangeRecipe(), most=3, gain=1.0)
    assert found is not None and found.cuts == (20.0, 50.0) and list(found.ranges) == ["a"]
    assert found.loss[0] == pytest.approx(1.0) and found.loss[0] > found.loss[1] > found.loss[2]
    for chosen, bands in zip(found.ranges["a"], ((0, 1), (2, 3, 4), (5,)), strict=True):
        own = statistics_of(bands, ONE_BAND)
        alone = search_range(mixture_of(own), mse())
        x = torch.cat([values_of(band).flatten() for band in bands]).double().numpy()

        def error(scale: float, zero_point: int, x: np.ndarray = x) -> float:
            q = np.clip(np.rint(x / scale) + zero_point, 0, 255)
            return float(np.mean((x - (q - zero_point) * scale) ** 2))

        assert error(chosen.scale, chosen.zero_point) == pytest.approx(error(alone.scale, alone.zero_point), rel=0.1)


def test_bands_are_as_few_as_are_worth_it_and_none_where_nothing_changes(drifting: LayerStatistics) -> None:
    few = banded_ranges({"a": drifting}, RangeRecipe(), most=6, gain=0.9)
    assert few is not None and len(few.cuts) < 5
    level = Histogram((0.0, 1.0, 2.0, 3.0), 2)
    for band in range(3):
        level.add(values_of(0), torch.full((2,), band))
    assert banded_ranges({"a": level.finish()}, RangeRecipe(), most=3, gain=0.9) is None
    assert banded_ranges({"a": drifting}, RangeRecipe(), most=1, gain=0.9) is None
    assert banded_ranges({"a": statistics_of((1,), ONE_BAND)}, RangeRecipe(), most=4, gain=0.9) is None


def test_a_law_that_leaves_a_band_out_draws_no_cut_around_it(drifting: LayerStatistics) -> None:
    shares = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    found = banded_ranges({"a": drifting}, RangeRecipe(), most=2, gain=1.0, shares=shares)
    assert found is not None and found.cuts == (20.0,)
    ends = [max(-item.low, item.high) for item in found.ranges["a"]]
    assert ends[1] > 3 * ends[0]


def test_other_metrics_take_cuts_by_mse_and_ranges_by_themselves(drifting: LayerStatistics) -> None:
    found = banded_ranges({"a": drifting}, RangeRecipe(metric="minmax"), most=3, gain=1.0)
    assert found is not None and found.cuts == (20.0, 50.0)
    for chosen, bands in zip(found.ranges["a"], ((0, 1), (2, 3, 4), (5,)), strict=True):
        x = torch.cat([values_of(band).flatten() for band in bands])
        assert chosen.scale == pytest.approx(float(x.max() - x.min()) / 255, rel=1e-6)
