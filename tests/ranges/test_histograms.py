import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptq4dm.ranges.histograms import (
    BINS,
    MIN_EXPONENT,
    ONE_BAND,
    Histogram,
    LayerStatistics,
    band_edges,
    band_of,
    required_exponent,
)

finite = st.floats(-(2.0**100), 2.0**100, width=32)
mild = st.floats(-100, 100, width=32)


def collected(batches: list[np.ndarray], edges=ONE_BAND, bands: list[int] | None = None) -> LayerStatistics:
    histogram = Histogram(edges, 1)
    for index, batch in enumerate(batches):
        rows = torch.from_numpy(batch.astype(np.float32)).reshape(1, 1, -1)
        histogram.add(rows, torch.tensor([bands[index] if bands else 0]))
    return histogram.finish()


@settings(max_examples=60)
@given(st.lists(st.one_of(finite, mild), min_size=1, max_size=60), st.data())
def test_order_and_batching_do_not_matter_and_numpy_agrees(values, data):
    shuffled = data.draw(st.permutations(values))
    cut = data.draw(st.integers(1, len(values)))
    one = collected([np.array(values, np.float32)])
    other = collected([part for part in (np.array(shuffled[:cut]), np.array(shuffled[cut:])) if len(part)])
    assert one.exponent == other.exponent
    assert torch.equal(one.counts, other.counts)
    edges = np.arange(-BINS // 2, BINS // 2 + 1, dtype=np.float64) * 2.0**one.exponent
    expected, _ = np.histogram(np.array(values, np.float32).astype(np.float64), edges)
    assert np.array_equal(one.counts[0].numpy(), expected)
    assert one.counts.sum() == len(values)


@settings(max_examples=60)
@given(finite)
def test_the_grid_is_the_finest_that_holds_the_value(value):
    exponent = required_exponent(abs(value))
    half = BINS // 2
    assert -half <= np.floor(value / 2.0**exponent) < half
    if exponent > MIN_EXPONENT:
        assert max(abs(value), -value) / 2.0 ** (exponent - 1) >= half


def test_values_of_very_different_size_merge_into_the_right_bins():
    statistics = collected([np.array([1e-6, -1e-6, 1e-9]), np.array([1e20])])
    filled = {int(i) - BINS // 2: int(statistics.counts[0, i]) for i in statistics.counts[0].nonzero()}
    top = int(np.floor(np.float64(np.float32(1e20)) / 2.0**statistics.exponent))
    assert filled == {-1: 1, 0: 2, top: 1}


def test_bands_are_kept_apart_with_exact_extremes_and_moments():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 5, 7)).astype(np.float32) * np.arange(1, 6).reshape(1, 5, 1)
    band = torch.tensor([2, 0, 2, 0, 0, 2])
    histogram = Histogram(band_edges(3, 0, 30), 5)
    histogram.add(torch.from_numpy(x.astype(np.float32)), band)
    got = histogram.finish()
    for index in (0, 2):
        rows = x[band.numpy() == index].astype(np.float32).astype(np.float64)
        assert got.low[index] == rows.min() and got.high[index] == rows.max()
        np.testing.assert_allclose(got.channel_sum[index].numpy(), rows.sum((0, 2)), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(got.channel_square[index].numpy(), (rows**2).sum((0, 2)), rtol=1e-5)
        assert got.positions[index] == 3 * 7 and got.counts[index].sum() == rows.size
    assert got.counts[1].sum() == 0 and got.low[1] == np.inf and got.high[1] == -np.inf
    np.testing.assert_allclose(got.channel_mean().numpy(), x.mean((0, 2)), rtol=1e-4, atol=1e-5)
    only = torch.tensor([0.0, 0.0, 5.0])
    np.testing.assert_allclose(
        got.channel_second_moment(only).numpy(), (x[band.numpy() == 2] ** 2).mean((0, 2)), rtol=1e-5
    )


@pytest.mark.parametrize("chunk", [1, 1000])
def test_counting_in_chunks_loses_nothing(monkeypatch, chunk):
    monkeypatch.setattr("ptq4dm.ranges.histograms.CHUNK", chunk)
    x = torch.linspace(-3, 5, 900).reshape(9, 10, 10)
    histogram = Histogram(ONE_BAND, 10)
    histogram.add(x, torch.zeros(9, dtype=torch.int64))
    assert histogram.finish().counts.sum() == 900
    assert histogram.finish().positions.tolist() == [90]


def test_bands_of_time_steps():
    edges = band_edges(4, 0, 1000)
    assert edges == (0, 250, 500, 750, 1000)
    steps = torch.tensor([0.0, 249.9, 250, 999, 1000, -5, 1e6])
    assert band_of(steps, edges).tolist() == [0, 0, 1, 3, 3, 0, 3]
    assert band_edges(1, 0, 1000) == band_edges(9, 3, 3) == ONE_BAND
    assert band_of(torch.tensor([0.01, 80.0]), ONE_BAND).tolist() == [0, 0]
