"""The search on histograms against brute force on the raw values."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from ptq4dm.errors import CalibrationError, RecipeError
from ptq4dm.ranges.histograms import Histogram, band_edges
from ptq4dm.ranges.metrics import METRICS, make_metric
from ptq4dm.ranges.mixture import Mixture, mixture_of
from ptq4dm.ranges.search import search_range

RNG = np.random.default_rng(0)
DATA = {
    "normal": RNG.normal(size=20000),
    "silu": (lambda x: x / (1 + np.exp(-x)))(RNG.normal(size=20000) * 2),
    "outlier": np.concatenate([RNG.normal(size=20000), [300.0]]),
    "heavy": RNG.standard_t(2, size=20000),
    "negative": -np.abs(RNG.normal(size=20000)),
    "shifted": RNG.normal(size=20000) + 20,
}
LOSSES = {
    "mse": lambda x, q: np.mean((x - q) ** 2),
    "l1": lambda x, q: np.mean(np.abs(x - q)),
    "lp": lambda x, q: np.mean(np.abs(x - q) ** 2.4),
    "cosine": lambda x, q: 1 - (x @ q) / np.sqrt((x @ x) * (q @ q)),
}


def mixture(x: np.ndarray) -> Mixture:
    histogram = Histogram(band_edges(1, 0, 1), 1)
    histogram.add(torch.from_numpy(x.astype(np.float32)).reshape(1, 1, -1), torch.zeros(1, dtype=torch.int64))
    return mixture_of(histogram.finish())


def quantized(x: np.ndarray, scale: float, zero_point: int, levels: int) -> np.ndarray:
    return (np.clip(np.round(x / scale) + zero_point, 0, levels) - zero_point) * scale


def brute_force(x: np.ndarray, loss, levels: int) -> float:
    """The least loss over a dense grid of scales and zero points."""
    low, high = min(x.min(), 0), max(x.max(), 0)
    best = np.inf
    sides = [0.0] if low == 0 else list(-(0.88 ** np.arange(45)) * -low)
    tops = [0.0] if high == 0 else list(0.88 ** np.arange(45) * high)
    for bottom in sides:
        for top in tops:
            scale = (top - bottom) / levels
            zero_point = round(-bottom / scale)
            best = min(best, loss(x, quantized(x, scale, zero_point, levels)))
    return best


@pytest.mark.parametrize("levels", [15, 255])
@pytest.mark.parametrize("metric", LOSSES)
@pytest.mark.parametrize("data", DATA)
def test_no_dense_grid_finds_a_better_range(data, metric, levels):
    x = DATA[data][-4000:].astype(np.float32).astype(np.float64)
    found = search_range(mixture(x), METRICS[metric](), levels)
    reached = LOSSES[metric](x, quantized(x, found.scale, found.zero_point, levels))
    assert reached <= 1.01 * brute_force(x, LOSSES[metric], levels) + 1e-12
    assert 0 <= found.zero_point <= levels and found.low <= 0 <= found.high


@pytest.mark.parametrize("metric", ["mse", "l1", "lp"])
def test_the_loss_told_is_the_loss_on_the_raw_values(metric):
    x = DATA["silu"].astype(np.float32).astype(np.float64)
    found = search_range(mixture(x), METRICS[metric]())
    assert found.loss == pytest.approx(LOSSES[metric](x, quantized(x, found.scale, found.zero_point, 255)), rel=0.02)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [0.0, 3.0, -0.7, 1e-20, 65504.0])
def test_constant_activations(metric, value):
    found = search_range(mixture(np.full(50, value)), METRICS[metric]())
    assert found.scale > 0 and np.isfinite(found.scale)
    got = quantized(np.float32(value), found.scale, found.zero_point, 255)
    tolerance = 0.02 if metric == "cosine" else 0.003  # cosine is blind to a wrong length
    if value >= 1e-10 or value <= -1e-10 or value == 0:
        assert got == pytest.approx(value, rel=1 if metric == "cosine" else tolerance, abs=1e-30)


def test_kl_against_scipy():
    values = torch.linspace(-1, 1, 41)
    weights = torch.from_numpy(RNG.random(41)).float()
    weights /= weights.sum()
    candidates = torch.stack([torch.round(values * 4).clamp(-3, 3) / 4, torch.round(values * 2) / 2])
    got = METRICS["kl"]()(values, weights, candidates)
    for row, loss in zip(candidates.numpy(), got.tolist(), strict=True):
        spread = np.zeros(41)
        for level in np.unique(row):
            spread[row == level] = weights.numpy()[row == level].mean()
        assert loss == pytest.approx(entropy(weights.numpy(), spread), rel=1e-4)


def test_rules_name_their_range():
    x = np.concatenate([np.linspace(-1, 3, 100001), [50.0]])
    found = search_range(mixture(x), METRICS["minmax"]())
    assert (found.low, found.high) == pytest.approx((-1, 50), abs=0.6 * found.scale)
    found = search_range(mixture(x), METRICS["percentile"](percent=98.0))
    assert (found.low, found.high) == pytest.approx((-0.96, 2.96), abs=0.03)


def test_a_callable_of_the_user_is_used():
    only_big = make_metric(lambda v, w, q: ((q - v).abs() * (v > 2.5)) @ w, {})
    found = search_range(mixture(DATA["normal"]), only_big)
    top = DATA["normal"][DATA["normal"] > 2.5]
    assert np.abs(quantized(top, found.scale, found.zero_point, 255) - top).max() < 0.1


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        ("msee", {}, r"unknown metric 'msee': accepted are mse, l1, lp, cosine, kl"),
        ("mse", {"p": 2}, r"metric mse: unknown option 'p'; accepted: none"),
        ("lp", {"p": -1}, r"p = -1"),
        ("percentile", {"percent": 20}, r"percent = 20"),
        (lambda v, w, q: q @ w, {"p": 1}, r"callable metric has no options"),
    ],
)
def test_metrics_that_are_not_accepted(metric, options, message):
    with pytest.raises(RecipeError, match=message):
        make_metric(metric, options)


@pytest.mark.parametrize("metric", [lambda v, w, q: 0.5, lambda v, w, q: q.sum(), lambda v, w, q: q @ w * float("nan")])
def test_a_metric_that_returns_no_losses_is_refused(metric):
    with pytest.raises(RecipeError, match="finite losses, one a candidate"):
        search_range(mixture(DATA["normal"]), metric)


def test_bands_are_mixed_by_their_share_not_by_their_samples():
    histogram = Histogram(band_edges(3, 0, 30), 1)
    wide, narrow = RNG.normal(size=(1, 1, 3000)) * 10, RNG.normal(size=(20, 1, 3000))
    histogram.add(torch.from_numpy(wide).float(), torch.tensor([0]))
    histogram.add(torch.from_numpy(narrow).float(), torch.full((20,), 2))
    statistics = histogram.finish()
    half = mixture_of(statistics, torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64))
    expected = (np.mean(wide**2) + np.mean(narrow**2)) / 2
    assert float(half.values.square() @ half.weights) == pytest.approx(expected, rel=0.01)
    only = mixture_of(statistics, torch.tensor([0.0, 0.0, 7.0], dtype=torch.float64))
    assert only.low == pytest.approx(narrow.min()) and only.high == pytest.approx(narrow.max())
    with pytest.raises(CalibrationError, match="time-steps 10 to 20"):
        mixture_of(statistics, torch.tensor([0.5, 0.1, 0.4], dtype=torch.float64))
    with pytest.raises(CalibrationError, match="3 numbers"):
        mixture_of(statistics, torch.tensor([1.0]))
