"""Noise, growth and shares against numbers worked out by hand or network by network."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ptq4dm.pipelines.denoiser import Call
from ptq4dm.pipelines.sampling import sample
from ptq4dm.quantization.layers import QuantizedLinear
from ptq4dm.quantization.plan import make_plan
from ptq4dm.quantization.rewrite import quantize_layers, with_layers
from ptq4dm.ranges.observe import observe
from ptq4dm.ranges.range_table import choose_ranges
from ptq4dm.recipe import RangeRecipe, WeightRecipe
from ptq4dm.studies.float_walk import FloatWalk, errors_along
from ptq4dm.studies.layer_noise import decibels_of, layer_noise
from ptq4dm.studies.redundancy import number_for
from ptq4dm.studies.redundancy_sentences import GROWTH, NOISE, SHARES
from ptq4dm.studies.single_errors import SingleErrors, single_errors, thinned
from ptq4dm.studies.study import Study


class Timed(nn.Module):
    """Two layers behind one another, called as a denoiser is; the time-step changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.second(torch.relu(self.first(x))),)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Timed().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def layers(network: nn.Module) -> dict[str, Any]:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    statistics = observe(network, ["first", "second"], [(Call((x, torch.tensor(1))), None)], shown=False)
    ranges = choose_ranges(statistics, RangeRecipe(), shown=False)
    return quantize_layers(network, make_plan(network, statistics=statistics), ranges, WeightRecipe())


@pytest.fixture(scope="module")
def walked(network: nn.Module) -> FloatWalk:
    x_t = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(2))
    return FloatWalk(torch.tensor([900, 500, 0]), x_t, network(x_t, torch.tensor(0))[0], torch.zeros(5, 8))


def decibels(wanted: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10((wanted**2).sum() / ((got - wanted) ** 2).sum()))


def test_noise_of_layers_is_that_of_explicit_arrays(
    network: nn.Module, layers: dict[str, Any], walked: FloatWalk
) -> None:
    found = layer_noise(network, layers, walked, 2, False)
    for call in range(3):
        x = walked.x_t[call].double().numpy()
        for name in ("first", "second"):
            module, layer = network.get_submodule(name), layers[name]
            weight, bias = (getattr(module, key).double().numpy() for key in ("weight", "bias"))
            scale, zero = float(layer.input_scale), int(layer.input_zero_point)
            rounded = (np.clip(np.round(x / scale) + zero, 0, 255) - zero) * scale
            integers = layer.weight.double().numpy() * layer.weight_scale.double().numpy()[:, None]
            y, got = x @ weight.T + bias, rounded @ integers.T + layer.bias.double().numpy()
            said = [decibels_of(*found[name][place])[call] for place in (0, 1)]
            assert said == pytest.approx([decibels(x, rounded), decibels(y, got)], abs=1e-2)
            x = np.maximum(y, 0)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_a_bit_is_worth_six_decibels_on_uniform_noise(bits: int) -> None:
    """Rounding values spread evenly about the middle of 2**b levels: 20 log10(2**b) dB = 6.02 dB a bit."""
    layer = QuantizedLinear(nn.Linear(4096, 1))
    levels = 2**bits
    layer.input_scale.fill_(1.0)
    layer.input_zero_point.fill_(levels // 2)
    x = (torch.rand(64, 4096, generator=torch.Generator().manual_seed(bits)) - 0.5) * (levels - 1)
    holder = nn.ModuleDict({"layer": nn.Linear(4096, 1)})
    holder.forward = lambda x, t: holder["layer"](x)  # type: ignore[method-assign]
    walked = FloatWalk(torch.tensor([0]), x[None], x[None], x)
    (said,) = decibels_of(*layer_noise(holder, {"layer": layer}, walked, 64, False)["layer"][0])
    assert said == pytest.approx(20 * math.log10(levels - 1), abs=0.05)
    assert said == pytest.approx(6.02 * bits, abs=0.6)


def test_no_noise_and_no_signal_have_no_decibels() -> None:
    assert decibels_of(torch.tensor([100.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0])) == [20.0, None, None]


def test_shares_are_those_of_networks_built_one_by_one(
    network: nn.Module, layers: dict[str, Any], walked: FloatWalk
) -> None:
    found = single_errors(network, layers, walked, 5, False)

    def errors(chosen: dict[str, Any]) -> np.ndarray:
        got = with_layers(network, chosen)(walked.x_t, torch.tensor(0))[0].double().numpy()
        wanted = walked.outputs.double().numpy()
        return np.linalg.norm(got - wanted, axis=2) / np.linalg.norm(wanted, axis=2)

    level = errors(layers)
    shares = {name: float((level * (errors({name: layers[name]}) / level) ** 2).sum() / level.sum()) for name in layers}
    assert found.shares() == pytest.approx(shares, rel=1e-4)
    assert found.additivity() == pytest.approx(sum(shares.values()), rel=1e-4)
    assert 0.5 < found.additivity() < 2


def test_predicted_variances_that_the_sampler_does_not_use_are_not_compared() -> None:
    """The outputs of a float walk hold what the sampler used of each: the first half."""
    x_t = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    walked = FloatWalk(torch.tensor([5]), x_t, x_t, x_t[0])
    network = nn.Identity()
    network.forward = lambda x, t: torch.cat([1.1 * x, x.exp()], 1)  # type: ignore[method-assign]
    assert errors_along(walked, network, 2, False).relative_l2.flatten().tolist() == pytest.approx([0.1, 0.1])


def test_independent_errors_add_up_and_equal_ones_do_not() -> None:
    one = torch.full((2, 3), 0.01, dtype=torch.float64)
    assert SingleErrors({"a": one, "b": one}, 2 * one).additivity() == pytest.approx(1)
    assert SingleErrors({"a": one, "b": one}, 4 * one).additivity_at() == pytest.approx([0.5] * 3)  # in step
    nothing = torch.zeros(2, 3, dtype=torch.float64)
    assert SingleErrors({"a": nothing}, nothing).shares() == {"a": 0.0}


def test_calls_with_a_large_error_weigh_more() -> None:
    whole = torch.tensor([[0.01**2, 0.03**2]], dtype=torch.float64)
    alone = torch.tensor([[0.01**2, 0.0]], dtype=torch.float64)
    assert SingleErrors({"a": alone}, whole).shares()["a"] == pytest.approx(0.25)


def test_thinned_walks_keep_both_ends(walked: FloatWalk) -> None:
    assert thinned(walked, 2).timesteps.tolist() == [900, 0]
    assert thinned(walked, 1).timesteps.tolist() == [900]
    assert torch.equal(thinned(walked, 9).x_t, walked.x_t)


@pytest.mark.parametrize(("part", "wanted"), [(0.5, 1), (0.7, 2), (0.99, 3)])
def test_the_number_of_layers_that_make_a_part(part: float, wanted: int) -> None:
    assert number_for(np.array([0.6, 0.3, 0.1]), part) == wanted


def facts_of(results: dict[str, Any], variant: str) -> dict[str, Any]:
    (row,) = [row for row in results["rows"] if (row["question"], row["variant"]) == ("redundancy", variant)]
    return row["facts"]


def test_every_rounded_layer_is_in_both_tables(study: Study, results: dict[str, Any]) -> None:
    noise, shares = facts_of(results, NOISE), facts_of(results, SHARES)
    names = set(study.rounded_layers)
    assert {row["layer"] for row in noise["layers"]} == {row["layer"] for row in shares["layers"]} == names
    assert {row["layer"] for row in shares["layers"] if row["left_in_float"]} == set(study.sensitive["left_in_float"])
    assert len(noise["t"]) == 4 and all(len(row["output"]) == 4 for row in noise["layers"])
    order = [row["output_all"] for row in noise["layers"]]
    assert order == sorted(order) and order[0] > 10
    assert sum(row["share"] for row in shares["layers"]) == pytest.approx(shares["additivity"])


def test_the_error_grows_from_nothing_to_that_of_the_pictures(study: Study, results: dict[str, Any]) -> None:
    growth = facts_of(results, GROWTH)
    assert growth["x_t"]["mean"][0] == 0.0 < growth["x_t"]["mean"][-1]
    assert growth["t"] == study.walk(study.trajectories).timesteps[[0]].tolist() + growth["t"][1:]
    config, shape = study.pipeline.scheduler.config, study.pipeline.picture_shape
    seeds = list(study.settings.test_seeds)
    drawn, wanted = (
        2 * sample(each, "ddim", config, shape, seeds, 4, 2, shown=False) - 1
        for each in (study.default_network, study.pipeline.denoiser)
    )
    far = ((drawn - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)).mean()
    assert growth["picture"]["mean"] == pytest.approx(float(far), rel=1e-3)
    row = next(row for row in results["rows"] if row["question"] == "default")
    kept = [growth["t"].index(t) for t in row["curve"]["t"]]
    assert [growth["call"]["mean"][at] for at in kept] == pytest.approx(row["curve"]["relative_l2"], rel=1e-3)
