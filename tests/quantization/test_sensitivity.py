"""Shares of the error against networks built one by one, and the choice against hand-made numbers."""

import pytest
import torch
from tiny import tiny_pipeline
from torch import nn

import ptq4dm
from ptq4dm.calibration import calls as calibration_calls
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.half_layers import HalfLinear
from ptq4dm.quantization.plan import make_plan, planned
from ptq4dm.quantization.rewrite import quantize_layers, with_layers
from ptq4dm.quantization.sensitivity import best_in_float, best_in_half, error_shares
from ptq4dm.quantization.weight_only import WeightOnlyLinear
from ptq4dm.ranges.observe import observe
from ptq4dm.ranges.range_table import choose_ranges
from ptq4dm.recipe import RangeRecipe, WeightRecipe


class Skips(nn.Module):
    """A narrow layer carries the input straight to the output; a wide one adds little."""

    def __init__(self, width: int = 256):
        super().__init__()
        self.skip, self.up, self.down = nn.Linear(16, 16), nn.Linear(16, width), nn.Linear(width, 16)

    def forward(self, x):
        return {"sample": self.skip(x) + 0.01 * self.down(torch.relu(self.up(x))), "shape": x.shape[-1]}


def calls(count: int = 3) -> list[Call]:
    generator = torch.Generator().manual_seed(1)
    return [Call((torch.randn(8, 16, generator=generator),)) for _ in range(count)]


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return Skips().eval()


@torch.no_grad()
def test_shares_are_those_of_networks_built_one_by_one(network):
    statistics = observe(network, ["skip", "up", "down"], [(call, None) for call in calls()], shown=False)
    plan = make_plan(network, statistics=statistics)
    layers = quantize_layers(network, plan, choose_ranges(statistics, RangeRecipe(), shown=False), WeightRecipe())
    found = error_shares(network, layers, calls(2))
    for name, layer in layers.items():
        ratios = []
        for call in calls(2):
            wanted = network(*call.args)["sample"]
            alone = with_layers(network, {name: layer})(*call.args)["sample"] - wanted
            whole = with_layers(network, layers)(*call.args)["sample"] - wanted
            ratios.append(alone.double().square().sum(1) / whole.double().square().sum(1))
        assert found[name] == pytest.approx(float(torch.cat(ratios).mean()), rel=1e-6)
    assert found["skip"] > 0.9 > 0.1 > found["up"]
    assert not any(module._forward_hooks for module in network.modules())


def test_the_most_error_for_the_fewest_multiply_adds():
    macs = {"a": 10, "b": 60, "c": 10, "d": 30, "e": 890}
    shares = {"a": 0.3, "b": 0.5, "c": 0.004, "d": 0.2, "e": 0.06}
    assert list(best_in_float(shares, macs, 0.11)) == [
        "a",
        "b",
        "d",
    ]  # 1 + 6 + 3 %; c makes too little, e less than its work
    assert list(best_in_float(shares, macs, 0.08)) == ["a", "b"]
    assert list(best_in_float(shares, macs, 0.045)) == ["a", "d"]  # b does not fit any more
    assert best_in_float(shares, macs, 0.0) == {}
    assert best_in_float(shares, macs, 0.01)["a"].startswith(
        "sensitive: rounding it makes 30.0% of the output's squared"
    )


@torch.no_grad()
def test_a_sensitive_layer_stays_in_float_within_the_recipes_share(network):
    recipe = ptq4dm.load_recipe("w8a8")
    batches = [(call.args, call.kwargs) for call in calls()]
    default, none = (
        ptq4dm.quantize_module(network, batches, each) for each in (recipe, recipe.replace(float_share=0.0))
    )
    assert planned(default.plan) == ["up", "down"] and planned(none.plan) == ["skip", "up", "down"]
    reason = next(layer.reason for layer in default.plan if layer.name == "skip")
    assert reason.startswith("sensitive: ") and type(default.network.skip) is WeightOnlyLinear
    (x,) = calls()[0].args
    wanted = network(x)["sample"]
    errors = [float((model.network(x)["sample"] - wanted).norm()) for model in (default, none)]
    assert errors[0] < 0.6 * errors[1]


def test_the_most_error_for_the_fewest_weights_is_held_in_float16():
    sizes, shares = {"a": 3, "b": 2, "c": 1, "d": 2}, {"a": 0.6, "b": 0.3, "c": 0.3, "d": 0.1}
    assert best_in_half(shares, sizes, 1000) == {"c", "a"}  # 4 of 1000 together; b does not fit any more
    assert best_in_half(shares, {"a": 3, "b": 2, "d": 2}, 1000) == {"a"}
    assert best_in_half(shares, {"b": 2, "d": 2}, 750) == {"b"}
    assert best_in_half(shares, sizes, 100) == set()


@pytest.mark.parametrize(("width", "kind"), [(256, WeightOnlyLinear), (2048, HalfLinear)])
@torch.no_grad()
def test_a_sensitive_layer_of_few_weights_is_held_in_float16(width, kind):
    network = Skips(width).eval()
    batches = [(call.args, call.kwargs) for call in calls()]
    model = ptq4dm.quantize_module(network, batches, ptq4dm.load_recipe("w8a8"))
    assert planned(model.plan) == ["up", "down"] and type(model.network.skip) is kind  # 256 of 8 or 66 thousand weights


@torch.no_grad()
def test_what_has_no_form_in_float16_keeps_8_bits():
    class Own(nn.Linear):
        pass

    for changed in ("kind", "size"):
        network = Skips(2048).eval()
        if changed == "kind":
            network.skip.__class__ = Own
        else:
            network.skip.weight[0, 0] = 7e4  # float16 ends at 65,504
        model = ptq4dm.quantize_module(network, [(call.args, call.kwargs) for call in calls()], "w8a8")
        assert type(model.network.skip) is WeightOnlyLinear


def test_layers_of_time_with_float_inputs_are_not_watched_along_all_time_steps():
    pipeline, made = tiny_pipeline(), []
    plain = {"calibration": {"samples": 2, "steps": 2}, "weights": {"error_feedback": False}, "float_share": 0.0}
    for time_in_float in (False, True):
        calls = []
        with pipeline.unet.register_forward_pre_hook(lambda module, args, calls=calls: calls.append(1)):
            ptq4dm.quantize(pipeline, ptq4dm.load_recipe("w8a8").replace(**plain, time_in_float=time_in_float))
        made.append(len(calls))
    along = calibration_calls.ALONG // calibration_calls.OBSERVED_AT_ONCE
    assert made[0] - made[1] == 2 * along  # before inputs are smoothed and after


def test_layers_of_time_are_watched_at_every_time_step():
    """Drawn at t = 0 alone, their input's cosines are 1 and sines 0; over all time-steps both reach -1."""
    recipe = ptq4dm.load_recipe("w8a8").replace(
        min_channels=1,
        time_in_float=False,
        smoothing={"enabled": False},
        calibration={"samples": 2, "steps": 2, "timesteps": "single", "law_options": {"t": 0}},
    )
    layer = ptq4dm.quantize(tiny_pipeline(), recipe).network.get_submodule("time_embedding.linear_1")
    lowest = -float(layer.input_scale) * int(layer.input_zero_point)
    assert lowest == pytest.approx(-1, abs=0.05)
