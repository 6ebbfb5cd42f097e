"""Safe rounding against brute force over all safe integers, and against the plain ways of rounding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import nn

from ptq4dm.errors import ModelError
from ptq4dm.numerics import PAIR_LIMIT, WEIGHT_MAX, pairs_are_safe
from ptq4dm.quantization import weights
from ptq4dm.quantization.weights import Pairs, nearest_safe, pairs_cross_taps, quantize_weight, rounded

real = st.floats(-(2.0**60), 2.0**60, width=32)
mild = st.floats(-2, 2, width=32)


def is_safe(weight: np.ndarray) -> bool:
    """The limit, said once more in plain numpy."""
    for row in weight.reshape(*weight.shape[:2], -1).astype(int):
        for i in range(0, len(row), 2):
            pair = row[i : i + 2]
            positive, negative = np.maximum(pair, 0).sum(0), np.minimum(pair, 0).sum(0)
            if (positive > 128).any() or (negative < -128).any():
                return False
    return True


def squared_error(weight: torch.Tensor, integers: torch.Tensor, scale: torch.Tensor, cost=1.0) -> torch.Tensor:
    real = integers.double() * scale.double().view(-1, *[1] * (weight.dim() - 1))
    return ((weight.double() - real).square() * cost).flatten(1).sum(1)


SAFE = np.array([(p, q) for p in range(-127, 128) for q in range(-127, 128) if abs(p + q) <= 128 or p * q <= 0])


@settings(max_examples=60)
@given(st.floats(-180, 180), st.floats(-180, 180), st.floats(0.01, 100))
def test_the_nearest_safe_pair_is_the_nearest_of_all(a, b, cost):
    tensors = [torch.tensor([[value]], dtype=torch.float64) for value in (a, b, cost, 1.0)]
    pairs = Pairs(*tensors)
    p, q, error = rounded(pairs, torch.ones(1, dtype=torch.float64), portable=True)
    best = (cost * (SAFE[:, 0] - a) ** 2 + (SAFE[:, 1] - b) ** 2).min()
    assert cost * (float(p) - a) ** 2 + (float(q) - b) ** 2 == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert float(error) == pytest.approx(best, rel=1e-6, abs=1e-9)
    assert is_safe(np.array([[[float(p)], [float(q)]]]))


def test_pairs_within_the_limit_are_left_alone():
    a, b = torch.tensor([[64.0, 127.0, -127.0]]), torch.tensor([[64.0, -127.0, -1.0]])
    p, q = nearest_safe(a, b, a.clone(), b.clone(), Pairs(a, b, torch.ones(1, 3), torch.ones(1, 3)))
    assert torch.equal(p, a) and torch.equal(q, b)
    assert PAIR_LIMIT == 128 and WEIGHT_MAX == 127


def brute_force(weight: np.ndarray, cost: np.ndarray) -> float:
    """The least weighted error of one output channel (channels,) over a dense grid of scales and all safe integers."""
    same = SAFE[(SAFE >= 0).all(1)]
    errors = []
    for factor in np.linspace(0.45, 1.99, 300):
        scale = np.abs(weight).max() / 127 * factor
        plain = cost * (np.clip(np.round(weight / scale), -127, 127) * scale - weight) ** 2
        error = 0.0
        for i in range(0, len(weight), 2):
            a, b, m, n = weight[i], weight[i + 1], cost[i], cost[i + 1]
            if a * b > 0 and abs(a) + abs(b) > 100 * scale:
                error += (m * (same[:, 0] * scale - abs(a)) ** 2 + n * (same[:, 1] * scale - abs(b)) ** 2).min()
            else:
                error += plain[i] + plain[i + 1]
        errors.append(error)
    return min(errors)


@pytest.mark.parametrize("channels", [8, 200])
def test_scale_and_limit_together_against_brute_force(channels):
    rng = np.random.default_rng(0)
    weight, cost = rng.normal(size=(3, channels)), rng.uniform(0.1, 3, size=channels)
    weight[:, :2] = np.abs(weight[:, :2]) + 2  # a pair over the limit at the plain scale
    integers, scale = quantize_weight(torch.from_numpy(weight).float(), True, torch.from_numpy(cost))
    reached = squared_error(torch.from_numpy(weight), integers, scale, torch.from_numpy(cost))
    for row, error in zip(weight, reached.tolist(), strict=True):
        assert error <= brute_force(row, cost) * (1.5 if channels == 8 else 1.05)  # 8 weights: a lottery of scales


@settings(max_examples=30)
@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.one_of(real, mild)))
def test_always_safe_never_a_scale_of_zero_no_worse_than_seven_bits(values):
    weight = torch.from_numpy(values)
    integers, scale = quantize_weight(weight)
    assert integers.dtype == torch.int8 and integers.shape == weight.shape and scale.shape == weight.shape[:1]
    assert is_safe(integers.numpy()) and bool(pairs_are_safe(integers.int()).all())
    assert bool((scale > 0).all()) and bool(torch.isfinite(scale).all()) and int(integers.min()) >= -127
    largest = weight.double().abs().flatten(1).amax(1)
    seven = torch.where(largest > 0, largest / 64, 1.0)
    allowed = (seven / 2) ** 2 * weight[0].numel()  # the worst of seven bits: with few weights some scale is lucky
    usual = largest > 1e-30
    assert bool((squared_error(weight, integers, scale) <= allowed * 1.001 + (largest * 1e-6) ** 2)[usual].all())


@pytest.mark.parametrize("shape", [(64, 48, 3, 3), (64, 33, 3), (96, 256), (32, 1, 3, 3), (16, 7, 3, 3, 3)])
def test_close_to_plain_eight_bits(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    plain = weight.abs().flatten(1).amax(1) / 127
    column = plain.view(-1, *[1] * (len(shape) - 1))
    eight = squared_error(weight, torch.round(weight / column), plain).sum()
    seven = squared_error(weight, torch.round(weight / column / 127 * 64), plain * 127 / 64).sum()
    safe = squared_error(weight, *quantize_weight(weight)).sum()
    searched = squared_error(weight, *quantize_weight(weight, portable=False)).sum()
    assert searched <= eight * 1.001
    assert searched <= safe * 1.02 and safe < 0.6 * seven
    if shape[1] == 1:
        assert safe == searched  # a depthwise layer has no pairs: the limit costs nothing


def test_importance_moves_the_error_to_the_channels_that_count_less():
    weight = torch.randn(256, 32, generator=torch.Generator().manual_seed(1)) * 0.1
    weight[:, 1] = 3.0
    moment = torch.ones(32)
    moment[1] = 1e-4
    blind, aware = quantize_weight(weight), quantize_weight(weight, second_moment=moment)
    assert squared_error(weight, *aware, moment).sum() < 0.5 * squared_error(weight, *blind, moment).sum()
    assert squared_error(weight, *aware).sum() > squared_error(weight, *blind).sum()
    per_row = moment.expand(256, 32)
    assert torch.equal(quantize_weight(weight, second_moment=per_row)[0], aware[0])


def test_chunks_do_not_change_the_result(monkeypatch):
    weight = torch.randn(6, 10, 3, 3, generator=torch.Generator().manual_seed(2))
    whole = quantize_weight(weight)
    monkeypatch.setattr("ptq4dm.quantization.weights.CHUNK", 100)
    assert all(torch.equal(one, other) for one, other in zip(whole, quantize_weight(weight), strict=True))


def test_odd_values():
    weight = torch.zeros(4, 6)
    weight[1] = 2.5
    weight[2] = 1e-42
    weight[3] = -3e38
    integers, scale = quantize_weight(weight)
    assert scale[0] == 1 and not integers[0].any()
    for row in (1, 3):
        assert torch.allclose(integers[row].float() * scale[row], weight[row], rtol=1e-3)
    assert bool(torch.isfinite(scale).all()) and bool((scale > 0).all())
    assert quantize_weight(torch.zeros(0, 3))[0].shape == (0, 3)
    half = quantize_weight(torch.randn(3, 4).half())
    assert half[1].dtype == torch.float32


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_name_the_layer(bad):
    weight = torch.ones(2, 2)
    weight[1, 1] = bad
    with pytest.raises(ModelError, match=r"weight of down\.conv has NaN or infinite"):
        quantize_weight(weight, name="down.conv")


@pytest.mark.parametrize(
    ("shape", "most", "steps"), [((64, 256, 3, 3), 30, 120), ((512, 256), 140, 280), ((16, 4, 3, 3), 270, 10)]
)
def test_few_passes_over_large_weights_and_few_steps_over_small_ones(monkeypatch, shape, most, steps):
    """How often the search rounds each weight, and in how many steps: what it costs, on any machine."""
    counted = []

    def counting(pairs, scale, *others):
        counted.append(2 * pairs.first.shape[1] * scale.numel())
        return rounded(pairs, scale, *others)

    monkeypatch.setattr(weights, "rounded", counting)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    quantize_weight(weight)
    assert 10 < sum(counted) / weight.numel() <= most and len(counted) <= steps


@pytest.mark.parametrize("shape", [(5, 6, 3, 3), (16, 32), (3, 1, 3)])
def test_how_many_candidates_are_tried_at_once_changes_nothing(monkeypatch, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    at_once = quantize_weight(weight)
    monkeypatch.setattr(weights, "CHUNK", 1)
    assert all(torch.equal(*pair) for pair in zip(at_once, quantize_weight(weight), strict=True))


@pytest.mark.parametrize(
    ("layer", "crosses"),
    [
        (nn.Conv2d(20, 20, 3, groups=4), True),  # five channels a group
        (nn.Conv1d(30, 60, 3, groups=30), True),  # one channel a group, two outputs each
        (nn.Conv2d(32, 32, 3, groups=32), False),  # depthwise
        (nn.ConvTranspose2d(32, 32, 4, 2, groups=32), True),  # one channel a group, one output each phase
        (nn.ConvTranspose2d(32, 32, 4, 2, groups=4), False),
        (nn.Conv2d(32, 32, 3, groups=4), False),
        (nn.Conv2d(17, 8, 3), False),
        (nn.Linear(17, 8), False),
    ],
)
def test_where_pairs_cross_taps_any_two_weights_are_safe(layer, crosses):
    assert pairs_cross_taps(layer) == crosses
    weight = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0)) ** 3
    integers, scale = quantize_weight(weight, any_pair=crosses)
    assert int(integers.abs().max()) <= (64 if crosses else 127)
    plain = squared_error(weight, torch.round(weight / (weight.abs().flatten(1).amax(1) / 64).view(-1, 1, 1)),
                          weight.abs().flatten(1).amax(1) / 64)  # fmt: skip
    assert bool((squared_error(weight, integers, scale) <= plain * 1.001).all())
    assert int(quantize_weight(weight, portable=False, any_pair=crosses)[0].abs().max()) > 64
