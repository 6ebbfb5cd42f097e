"""One pass for all laws: equal to collecting under the law, exactly where it should be, within the bound elsewhere."""

import pytest
import torch
from torch import Tensor, nn

from ptq4dm.errors import CalibrationError
from ptq4dm.numerics import fake_quantize
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.ranges.histograms import LayerStatistics, band_of, merged
from ptq4dm.ranges.laws import band_shares, joined, law_distance, sweep_edges, under_law
from ptq4dm.ranges.mixture import mixture_of
from ptq4dm.ranges.observe import observe
from ptq4dm.ranges.range_table import choose_ranges
from ptq4dm.ranges.saved_statistics import AS_THEY_ARE
from ptq4dm.recipe import RangeRecipe

VISITED = torch.tensor([990, 800, 600, 400, 200, 0])
BATCH = 4


class Drifting(nn.Module):
    """A layer whose input grows with t."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layer(x * (0.2 + t.view(-1, 1, 1, 1) / 200))


def calls(times: list[int]) -> list[tuple[Call, Tensor]]:
    """Visit k of the same samples `times[k]` times."""
    found = []
    for visit, number in enumerate(times):
        x = torch.randn(BATCH, 3, 5, 5, generator=torch.Generator().manual_seed(visit))
        t = VISITED[visit].expand(BATCH)
        found += [(Call((x, t)), t)] * number
    return found


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Drifting()


def collected(network: nn.Module, times: list[int], edges: tuple[float, ...] | None = None) -> LayerStatistics:
    return observe(network, ["layer"], calls(times), edges, shown=False)["layer"]


@pytest.mark.parametrize("times", [[1, 1, 1, 1, 1, 1], [4, 0, 2, 0, 1, 1], [0, 0, 0, 0, 0, 8], [1, 2, 4, 8, 16, 1]])
def test_with_a_band_for_each_visit_every_law_is_exact(network: nn.Module, times: list[int]) -> None:
    direct = collected(network, times)
    sweep = collected(network, [1] * 6, sweep_edges(VISITED, 6))
    shares = torch.tensor(times, dtype=torch.float64) / sum(times)
    assert law_distance(shares, VISITED, sweep.edges) == 0
    mixed = under_law(sweep, band_shares(shares, VISITED, sweep.edges))
    one, other = mixture_of(direct), mixture_of(mixed)
    assert (one.low, one.high) == (other.low, other.high)
    coarser = (
        mixed.exponent - direct.exponent
    )  # the sweep's grid holds the widest band even where the law leaves it out
    assert (coarser > 0) == (times == [0, 0, 0, 0, 0, 8])
    counts = merged(direct.counts, coarser).double()
    assert torch.allclose(counts / counts.sum(), mixed.counts / mixed.counts.sum(), rtol=0, atol=1e-15)
    if not coarser:
        assert torch.equal(one.values, other.values)
        assert torch.allclose(one.weights, other.weights, rtol=0, atol=1e-15)
        recipe = RangeRecipe()
        chosen = [choose_ranges({"layer": item}, recipe).ranges["layer"] for item in (direct, mixed)]
        assert (chosen[0].scale, chosen[0].zero_point) == (chosen[1].scale, chosen[1].zero_point)
    assert torch.allclose(direct.channel_mean(), mixed.channel_mean(), rtol=1e-12)
    assert torch.allclose(direct.channel_second_moment(), mixed.channel_second_moment(), rtol=1e-12)
    assert torch.equal(direct.channel_largest.amax(0), mixed.channel_largest.amax(0))


def test_a_law_constant_in_wide_bands_is_exact_too(network: nn.Module) -> None:
    edges = sweep_edges(VISITED, 4)
    band = band_of(VISITED, edges)
    times = [{0: 8, 1: 2, 2: 4, 3: 1}[index] for index in band.tolist()]
    shares = torch.tensor(times, dtype=torch.float64) / sum(times)
    assert law_distance(shares, VISITED, edges) == pytest.approx(0, abs=1e-15)
    one = mixture_of(collected(network, times))
    other = mixture_of(under_law(collected(network, [1] * 6, edges), band_shares(shares, VISITED, edges)))
    assert torch.allclose(one.weights, other.weights, rtol=0, atol=1e-15)


@pytest.mark.parametrize("times", [[1, 1, 8, 1, 1, 1], [0, 4, 0, 0, 1, 2]])
def test_other_laws_are_within_the_bound(network: nn.Module, times: list[int]) -> None:
    edges = sweep_edges(VISITED, 3)
    shares = torch.tensor(times, dtype=torch.float64) / sum(times)
    distance = law_distance(shares, VISITED, edges)
    assert distance > 0.05
    direct = mixture_of(collected(network, times))
    mixed = mixture_of(under_law(collected(network, [1] * 6, edges), band_shares(shares, VISITED, edges)))
    apart = 0.0
    for scale in (0.005, 0.02, 0.1):
        step, zero_point = torch.tensor(scale, dtype=torch.float64), torch.tensor(128.0, dtype=torch.float64)
        means, largest = [], 0.0
        for mixture in (direct, mixed):
            error = (fake_quantize(mixture.values, step, zero_point) - mixture.values).square()
            means.append(float(error @ mixture.weights))
            largest = max(largest, float(error.max()))
        assert abs(means[0] - means[1]) <= distance * largest
        apart = max(apart, abs(means[0] - means[1]))
    assert apart > 0  # the bound is about something


def test_bands_that_are_collected_apart_are_joined_to_the_bit(network: nn.Module) -> None:
    edges = sweep_edges(VISITED, 6)
    whole = collected(network, [1] * 6, edges)
    apart = [collected(network, [int(5 - band == visit) for visit in range(6)]) for band in range(6)]
    assert len({part.exponent for part in apart}) > 1
    together = joined(apart, edges)
    assert together.exponent == whole.exponent and together.edges == whole.edges
    for name in ("counts", *AS_THEY_ARE):
        assert torch.equal(getattr(together, name), getattr(whole, name))


def test_the_ends_have_bands_of_their_own() -> None:
    edges = sweep_edges(torch.arange(980, -1, -20), 10)
    assert len(edges) == 11
    band = band_of(torch.arange(980, -1, -20), edges)
    assert (band == 0).sum() == 1 and (band == 9).sum() == 1
    sizes = torch.bincount(band)[1:-1]
    assert int(sizes.max() - sizes.min()) <= 1
    assert len(sweep_edges(VISITED, 1000)) == len(VISITED) + 1


def test_a_share_for_a_band_without_values_is_refused(network: nn.Module) -> None:
    sweep = collected(network, [1, 1, 1, 1, 1, 0], sweep_edges(VISITED, 6))
    with pytest.raises(CalibrationError, match="no calibration sample lies in the time-steps"):
        under_law(sweep, torch.full((6,), 1 / 6))
