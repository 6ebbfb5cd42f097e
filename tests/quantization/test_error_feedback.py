"""Rounding with error feedback: against slow textbook loops, least squares, and what it shall do to outputs."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_by_one import one_by_one, squared_error
from torch import nn

from ptq4dm.numerics import WEIGHT_MAX, pairs_are_safe
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization import input_moments
from ptq4dm.quantization.error_feedback import DAMPING, best_integers, carried, damped, round_again, with_feedback
from ptq4dm.quantization.rewrite import quantize_layer
from ptq4dm.quantization.weight_only import weight_only_form
from ptq4dm.ranges.search import InputRange
from ptq4dm.recipe import WeightRecipe, load_recipe
from ptq4dm.workflow import quantize_module

RANGE = InputRange(0.05, 100, -5.0, 7.75, 0.0)
GREEDY = WeightRecipe(portable=False)


def correlated(rows, width, seed=0, mean=0.0, rank=4):
    """Rows of which `rank` directions, the same for every seed, tell most."""
    directions = torch.randn(rank, width, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, rank, generator=generator) @ directions
    return mixed / rank**0.5 + 0.1 * torch.randn(rows, width, generator=generator) + mean


def second_moment(width, seed=0):
    x = correlated(4 * width, width, seed).double()
    return x.T @ x / len(x)


def raised(second):
    return second + DAMPING * second.diagonal().mean() * torch.eye(len(second), dtype=second.dtype)


def taps_before_channels(channels, taps):
    """Places of (channels, taps), all channels of a tap together."""
    return [channel * taps + tap for tap in range(taps) for channel in range(channels)]


def fed_back(weight, second, channels, portable):
    """Error feedback by itself, of inputs (channels, taps)."""
    order = taps_before_channels(channels, weight.shape[1] // channels)
    found = torch.empty_like(weight)
    factor = damped(second[order][:, order])[1]
    found[:, order] = with_feedback(weight[:, order], carried(factor), channels, portable)
    return found


def eliminated(weight, second, channels):
    """The paper's loop: an explicit inverse, from which each input is removed by Gaussian elimination."""
    inverse, left, found = torch.linalg.inv(raised(second)), weight.clone(), torch.zeros_like(weight)
    order = taps_before_channels(channels, weight.shape[1] // channels)
    for at, j in enumerate(order):
        found[:, j] = left[:, j].round().clamp(-WEIGHT_MAX, WEIGHT_MAX)
        error = (left[:, j] - found[:, j]) / inverse[j, j]
        for k in order[at:]:
            left[:, k] -= error * inverse[j, k]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return found


def least_squares(weight, second, channels):
    """What the loop amounts to: before each rounding, those not yet rounded are the best answer to all before."""
    matrix, found = raised(second), torch.zeros_like(weight)
    order = taps_before_channels(channels, weight.shape[1] // channels)
    for at, j in enumerate(order):
        done, free = order[:at], order[at:]
        error = (found - weight)[:, done]
        best = weight[:, free] - torch.linalg.solve(matrix[free][:, free], matrix[free][:, done] @ error.T).T
        found[:, j] = best[:, 0].round().clamp(-WEIGHT_MAX, WEIGHT_MAX)
    return found


def test_what_is_carried_takes_the_moments_apart():
    """matrix = U D Uᵀ with U unit upper triangular and D diagonal, of which there is one."""
    second = second_moment(40)
    matrix, unit = raised(second), carried(damped(second)[1])
    assert torch.equal(unit, unit.triu()) and torch.equal(unit.diagonal(), torch.ones_like(unit.diagonal()))
    inverse = torch.linalg.inv(unit)
    middle = inverse @ matrix @ inverse.T
    assert bool((middle.diagonal() > 0).all())
    torch.testing.assert_close(middle, torch.diag(middle.diagonal()), rtol=0, atol=1e-9 * float(matrix.abs().max()))


@pytest.mark.parametrize("below", [1e-9, 1e-3, 1.0])
def test_moments_that_rounding_left_below_zero_are_raised_until_they_have_a_factor(below):
    """R Rᵀ is what was given plus the same on every place of the diagonal: what lifts its least eigenvalue, no more
    than needed by a factor of twenty (or the rounding of a sum in float32)."""
    width = 24
    turned = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0)).double()).Q
    values = torch.linspace(-below, 0.0, width, dtype=torch.float64)
    values[-1] = 1.0
    second = turned @ torch.diag(values) @ turned.T
    matrix, factor = damped((second + second.T) / 2)
    added = factor @ factor.T - second
    by = float(added.diagonal().mean())
    assert torch.equal(factor, factor.triu()) and below < by < max(20 * below, 1e-3 / width, 1e-6)
    torch.testing.assert_close(added, by * torch.eye(width).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(factor @ factor.T, matrix, rtol=0, atol=1e-12)


def test_inputs_that_hardly_vary_around_a_large_mean_are_quantized_as_well_as_without_feedback():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(256, 64), nn.SiLU(), nn.Linear(64, 32)).eval()
    batches = [((100 + 0.1 * torch.randn(128, 256),), {}) for _ in range(32)]
    x, error = 100 + 0.1 * torch.randn(1000, 256), {}
    for feedback in (True, False):
        recipe = load_recipe("w8a8").replace(weights={"error_feedback": feedback})
        quantized = quantize_module(network, batches, recipe).to_module("simulated")
        with torch.no_grad():
            error[feedback] = float((quantized(x) - network(x)).double().square().mean().sqrt())
    assert error[True] < 1.05 * error[False]


@pytest.mark.parametrize(("channels", "taps"), [(8, 1), (7, 1), (5, 4), (50, 3), (1, 9)])
def test_the_integers_are_those_of_the_paper(channels, taps):
    torch.manual_seed(channels)
    weight = 30 * torch.randn(4, channels * taps, dtype=torch.float64)
    second = second_moment(channels * taps, seed=taps)
    before = weight.clone()
    found = fed_back(weight, second, channels, portable=False)
    assert torch.equal(found, eliminated(weight, second, channels))
    assert torch.equal(weight, before)
    if channels * taps < 50:
        assert torch.equal(found, least_squares(weight, second, channels))
    assert not torch.equal(found, weight.round())


def test_uncorrelated_inputs_leave_the_nearest_integers():
    torch.manual_seed(0)
    weight = 20 * torch.randn(5, 12, dtype=torch.float64)
    second = torch.diag(torch.rand(12, dtype=torch.float64) + 0.1)
    assert torch.equal(best_integers(weight, second, 12, portable=False), weight.round())
    assert torch.equal(best_integers(weight, torch.zeros(12, 12, dtype=torch.float64), 12, False), weight.round())


@given(
    channels=st.integers(1, 7),
    taps=st.integers(1, 4),
    rank=st.integers(0, 6),
    size=st.sampled_from([1.0, 60.0, 127.0, 1000.0]),
    sign=st.sampled_from([-1, 0, 1]),
    seed=st.integers(0, 999),
)
@settings(max_examples=60)
def test_pairs_are_always_safe(channels, taps, rank, size, sign, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = size * torch.randn(3, channels * taps, generator=generator, dtype=torch.float64)
    weight = weight.abs() * sign if sign else weight
    rows = 100 * torch.randn(rank, channels * taps, generator=generator, dtype=torch.float64)
    found = best_integers(weight, rows.T @ rows, channels, portable=True)
    assert bool(pairs_are_safe(found.view(3, channels, taps)).all())
    assert torch.equal(found, found.round()) and float(found.abs().max()) <= WEIGHT_MAX


def test_the_limit_on_pairs_costs_nothing_where_it_is_not_reached():
    torch.manual_seed(1)
    weight, second = 8 * torch.randn(6, 24, dtype=torch.float64), second_moment(24)
    assert torch.equal(best_integers(weight, second, 8, True), best_integers(weight, second, 8, False))


@pytest.mark.parametrize("portable", [True, False])
def test_descent_goes_on_where_feedback_ends(portable):
    torch.manual_seed(2)
    weight, second = 50 * torch.randn(8, 5 * 9, dtype=torch.float64), second_moment(5 * 9)
    alone, both = fed_back(weight, second, 5, portable), best_integers(weight, second, 5, portable)
    errors = [squared_error(weight, found, raised(second)) for found in (alone, both)]
    assert bool((errors[1] <= errors[0]).all()) and float(errors[1].sum()) < 0.98 * float(errors[0].sum())


def quantized(layer, recipe=GREEDY):
    return quantize_layer(layer, "layer", RANGE, None, recipe)


def inputs(layer, rows, seed=0, mean=0.5):
    """Inputs whose channels, and whose neighbours in space, go together."""
    if isinstance(layer, nn.Linear):
        return correlated(rows, layer.in_features, seed, mean)
    side = rows + 2 * (len(layer.kernel_size) == 1)
    x = correlated(2 * side ** len(layer.kernel_size), layer.in_channels, seed, mean)
    return x.T.reshape(layer.in_channels, 2, *[side] * len(layer.kernel_size)).transpose(0, 1).contiguous()


LAYERS = {
    "linear": (lambda bias: nn.Linear(24, 16, bias=bias), 600),
    "odd channels": (lambda bias: nn.Conv2d(5, 16, 3, padding=1, bias=bias), 20),
    "conv1d": (lambda bias: nn.Conv1d(8, 16, 3, stride=2, bias=bias), 300),
    "weight-only": (lambda bias: nn.Linear(24, 16, bias=bias), 600),
}


def network_and_layer(kind, bias, recipe=GREEDY):
    torch.manual_seed(3)
    make, rows = LAYERS[kind]
    source = make(bias).requires_grad_(False).eval()
    layer = weight_only_form(source, "layer") if kind == "weight-only" else quantized(source, recipe)
    return nn.Sequential(source).eval(), layer, inputs(source, rows)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "portable"), [(kind, safe) for kind in LAYERS for safe in (True, False) if not (safe and "only" in kind)]
)
def test_the_output_is_nearer_on_inputs_that_go_together(kind, bias, portable):
    recipe = WeightRecipe(portable=portable)
    network, layer, x = network_and_layer(kind, bias, recipe)
    calls, fresh = [Call((x,))], inputs(network[0], LAYERS[kind][1], seed=9)
    taken = layer.centred_input(fresh) * layer.input_step()  # the rounding of inputs is not what is mended
    wanted = network(taken)
    before, scale = (layer(taken) - wanted).square().mean(), layer.weight_scale.clone()
    round_again(network, {"0": layer}, calls, recipe)
    after = (layer(taken) - wanted).square().mean()
    assert float(after) < 0.6 * float(before)
    assert torch.equal(layer.weight_scale, scale) and layer.weight.dtype == torch.int8
    assert not portable or bool(pairs_are_safe(layer.weight.int()).all())


@pytest.mark.parametrize("kind", LAYERS)
def test_the_bias_takes_the_mean_of_the_error_back(kind, monkeypatch):
    monkeypatch.setattr(input_moments, "WINDOWS", 1 << 20)  # all
    network, layer, x = network_and_layer(kind, bias=True)
    source_bias = network[0].bias.clone()
    round_again(network, {"0": layer}, [Call((x[:1],)), Call((x[1:],))], GREEDY)
    error = (layer.double()(x.double()) - network.double()(x.double())).transpose(0, 1 if x.dim() > 2 else -1)
    assert float(error.flatten(1).mean(1).abs().max()) < 1e-5 < 1e-3 < float(error.abs().max())
    assert layer.bias.dtype == torch.float32 and torch.equal(network[0].bias, source_bias.double())


def directly(layer, source, x):
    """Uncentred second moments, mean, of all windows of a linear layer's rounded input, in float64."""
    x = x.double()
    step, zero = float(layer.input_scale), float(layer.input_zero_point)
    u = (torch.round(x / step) + zero).clamp(0, 255) - zero
    return u.T @ u / len(u), u.mean(0)


@pytest.mark.parametrize(
    ("bias", "correction", "centred"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_inputs_are_taken_less_their_mean_where_a_bias_takes_it_back(bias, correction, centred):
    network, layer, x = network_and_layer("linear", bias)
    second, mean = directly(layer, network[0], x)
    second = second - torch.outer(mean, mean) if centred else second
    real = network[0].weight.double() / layer.weight_scale.double()[:, None]
    kept = None if layer.bias is None else layer.bias.clone()
    round_again(network, {"0": layer}, [Call((x,))], replace(GREEDY, bias_correction=correction))
    wanted = one_by_one(real, eliminated(real, second, 24), raised(second), 24, portable=False)
    assert torch.equal(layer.weight.double(), wanted)
    assert layer.bias is None if kept is None else torch.equal(layer.bias, kept) is not centred


def test_smoothed_layers_are_rounded_by_their_smoothed_inputs():
    network, _, x = network_and_layer("odd channels", bias=True)
    smoothing = torch.tensor([0.5, 2.0, 1.0, 4.0, 0.25])
    plain = nn.Sequential(nn.Conv2d(5, 16, 3, padding=1)).requires_grad_(False).eval()
    plain[0].weight.copy_(network[0].weight * smoothing.view(-1, 1, 1))
    plain[0].bias.copy_(network[0].bias)
    smooth = quantize_layer(network[0], "layer", RANGE, None, GREEDY, smoothing)
    layer = quantized(plain[0])
    round_again(network, {"0": smooth}, [Call((x,))], GREEDY)
    round_again(plain, {"0": layer}, [Call((x / smoothing.view(-1, 1, 1),))], GREEDY)
    assert torch.equal(smooth.weight, layer.weight)
    torch.testing.assert_close(smooth.bias, layer.bias, rtol=1e-5, atol=1e-6)


def test_without_calls_all_stays():
    network, layer, _ = network_and_layer("linear", bias=True)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    round_again(network, {"0": layer}, [], GREEDY)
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())


@pytest.mark.parametrize(
    "source",
    [
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Conv1d(8, 8, 3, groups=8),
        nn.ConvTranspose2d(8, 8, 2),
        nn.Conv2d(8, 8, 2, padding="same"),
        nn.Conv2d(8, 8, 3),
    ],
    ids=["grouped", "depthwise", "transposed", "padded on one side", "too wide"],
)
def test_layers_without_one_window_an_output_stay_as_they_were(source, monkeypatch):
    monkeypatch.setattr(input_moments, "WIDEST", 71)
    layer = quantized(source.requires_grad_(False))
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    x = torch.randn(4, 8, 6, 6) if isinstance(layer.stride, tuple) and len(layer.stride) == 2 else torch.randn(4, 8, 9)
    round_again(nn.Sequential(source), {"0": layer}, [Call((x,))], GREEDY)
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())


def test_moments_of_few_windows_have_a_factor():
    """Fewer windows than inputs: a second moment that has no inverse without damping."""
    u = torch.randint(-100, 100, (3, 30)).float()
    second = (u.T @ u).double() / len(u)
    found = best_integers(20 * torch.randn(4, 30, dtype=torch.float64), second, 30, True)
    assert bool(torch.isfinite(found).all()) and bool(pairs_are_safe(found.view(4, 30, 1)).all())
