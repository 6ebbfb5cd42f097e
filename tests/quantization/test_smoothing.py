"""Outlier channels are smoothed: by the formula, without changing the float function, and with less error."""

import copy
import math

import pytest
import torch
from outliers import inputs, planted, relative, tiny_dit
from torch import Tensor, nn

import ptq4dm
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.folding import divide_output, producers_of, proven
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.smoothing import outlier_ratio, smoothing_factors, smoothing_of
from ptq4dm.ranges.observe import observe
from ptq4dm.ranges.range_table import RangeTable, choose_ranges
from ptq4dm.recipe import RangeRecipe, SmoothingRecipe

OFF = ptq4dm.load_recipe("w8a8").replace(smoothing={"enabled": False})


def smoothed(network: nn.Module) -> set[str]:
    """The layers that divide their inputs themselves."""
    return {name for name, m in network.named_modules() if isinstance(m, QuantizedLayer) and m.smoothing is not None}


class Stack(nn.Module):
    """Every layer that factors are folded into, and one that they are not, on (batch, 8, 4, 4)."""

    def __init__(self):
        super().__init__()
        self.group, self.proj = nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 1)
        self.norm = nn.LayerNorm(16)
        self.to_q, self.to_k, self.to_v = (nn.Linear(16, 16, bias=bias) for bias in (True, False, True))
        self.rms, self.up = nn.RMSNorm(16), nn.Linear(16, 32)
        self.first, self.second = nn.Linear(32, 16), nn.Linear(16, 16)
        self.last, self.out = nn.LayerNorm(16), nn.Linear(16, 8)

    def forward(self, x):
        x = self.proj(self.group(x)).flatten(2).transpose(1, 2)
        y = self.norm(x)
        x = x + nn.functional.scaled_dot_product_attention(self.to_q(y), self.to_k(y), self.to_v(y))
        x = x + self.second(self.first(nn.functional.gelu(self.up(self.rms(x)))))
        y = self.last(x)
        return self.out(y) + y[..., :8]


FOLDS = {"group": ("proj",), "norm": ("to_q", "to_k", "to_v"), "rms": ("up",), "first": ("second",)}


@torch.no_grad()
def stack() -> Stack:
    """With two channels 80 times as large in front of each layer."""
    torch.manual_seed(0)
    network = Stack().eval()
    for layer in (network.group, network.norm, network.rms, network.first, network.last):
        for tensor in (layer.weight, getattr(layer, "bias", None)):
            if tensor is not None:
                tensor.mul_(1 + 0.1 * torch.randn_like(tensor))
                tensor[[2, 9]] *= 80
    for name in ("proj", "to_q", "to_k", "to_v", "up", "second", "out"):
        network.get_submodule(name).weight[:, [2, 9]] /= 80
    return network


def batches(count=3):
    generator = torch.Generator().manual_seed(0)
    return [((torch.randn(4, 16, 4, 4, generator=generator),), {}) for _ in range(count)]


@pytest.fixture(scope="module")
def folded():
    """The stack, quantized by the default recipe."""
    return ptq4dm.quantize_module(stack(), batches())


def test_gains_are_measured_before_factors_are_folded(folded):
    """`first` answers in other units afterwards, 80 times smaller in two channels."""
    facts = folded.denoiser().facts
    assert "first" in facts["folded"]
    assert all(0 < abs(gain) < 0.02 for gain in facts["gains"].values())


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_factors_by_the_formula(alpha):
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(7, 5, generator=generator) * torch.tensor([1, 90, 0.1, 3, 1]), torch.randn(6, 5)
    found = smoothing_factors(x.abs().amax(0), w, alpha)
    for j in range(5):
        largest_x, largest_w = max(abs(float(v)) for v in x[:, j]), max(abs(float(v)) for v in w[:, j])
        assert float(found[j]) == pytest.approx(largest_x**alpha / largest_w ** (1 - alpha), rel=1e-6)


def test_channels_without_values_or_weights_are_left_alone():
    weight = torch.tensor([[1.0, 0.0, 4.0], [0.5, 0.0, 2.0]])
    assert smoothing_factors(torch.tensor([0.0, 9.0, 16.0]), weight, 0.5).tolist() == [1.0, 1.0, 2.0]
    assert outlier_ratio(torch.zeros(4)) == 1.0 and outlier_ratio(torch.tensor([0.0, 0.0, 1.0, 2.0, 50.0])) == 25.0


@torch.no_grad()
def test_planted_outliers_cost_a_transformer_little_when_smoothed():
    """A DiT of diffusers, whose norms have no weights: the layers divide their inputs, exactly in every backend."""
    network = planted(tiny_dit())
    same_function = tiny_dit()
    given = inputs(8, seed=99)
    wanted = network(**given).sample
    assert relative(wanted, same_function(**given).sample) < 1e-5
    calibration = [((), inputs(8, seed)) for seed in range(4)]
    with_it, without = (ptq4dm.quantize_module(network, calibration, recipe) for recipe in ("w8a8", OFF))
    error, error_without = (relative(model.network(**given).sample, wanted) for model in (with_it, without))
    assert error_without > 0.05 and error < error_without / 5
    layers = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "ff.net.0.proj")
    assert smoothed(with_it.network) >= {f"transformer_blocks.{block}.{name}" for block in (0, 1) for name in layers}
    assert not smoothed(without.network) and not with_it.denoiser().facts["folded"]
    unplanted = ptq4dm.quantize_module(same_function, calibration)
    assert error < 1.5 * relative(unplanted.network(**given).sample, wanted)


@torch.no_grad()
def test_a_smoothed_transformer_is_saved_loaded_and_run_in_int8(tmp_path):
    pytest.importorskip("openvino")
    model = ptq4dm.quantize_module(planted(tiny_dit(layers=1)), [((), inputs())])
    loaded = ptq4dm.load(model.save(tmp_path / "int8"), module=tiny_dit(3, layers=1))
    given = inputs(seed=9)
    assert smoothed(loaded.network) == smoothed(model.network) != set()
    fast = model.to_module("openvino")
    assert all(layer.int8 for layer in fast.ptq4dm_engine.executed)
    simulated, engine = model.network(**given).sample, fast(**given).sample
    assert relative(engine, simulated) < 1e-2
    assert torch.equal(loaded.network(**given).sample, simulated)
    again = ptq4dm.load(tmp_path / "int8", module=tiny_dit(3, layers=1), example=Call((), inputs())).to_module(
        "openvino"
    )
    assert torch.equal(again(**given).sample, engine)


@torch.no_grad()
def test_what_lies_in_front_takes_the_factors_in(folded):
    facts = folded.denoiser().facts
    assert facts["folded"] == {key: list(names) for key, names in FOLDS.items()}
    assert smoothed(folded.network) == {
        "out",
        "first",
    }  # the output of `last` is read elsewhere too, gelu's is no norm's
    assert set(facts["smoothed"]) == {name for names in FOLDS.values() for name in names} | {"out", "first"}
    (x,), _ = batches()[0]
    wanted = stack()(x)
    plain = ptq4dm.quantize_module(stack(), batches(), OFF)
    assert relative(folded.network(x), wanted) < relative(plain.network(x), wanted) / 5


@torch.no_grad()
def test_folding_leaves_the_float_function_as_it_is():
    """Factors taken into the tensors of a float64 copy, weights behind multiplied: equal to its last digits."""
    network = stack()
    calls = [(Call(args, kwargs), None) for args, kwargs in batches()]
    names = [name for names in FOLDS.values() for name in names]
    largest = {name: item.channel_largest.amax(0) for name, item in observe(network, names, calls, shown=False).items()}
    smoothing = smoothing_of(network, largest, calls[0][0], SmoothingRecipe())
    assert smoothing.folds == FOLDS
    changed, (x,) = copy.deepcopy(network).double(), batches()[0][0]
    for producer, consumers in smoothing.folds.items():
        factors = smoothing.factors[consumers[0]].double()
        assert float(factors.max() / factors.min()) > 5
        divide_output(changed.get_submodule(producer), factors)
        for name in consumers:
            assert torch.equal(smoothing.factors[name].double(), factors)
            weight = changed.get_submodule(name).weight
            weight *= factors.view(-1, *[1] * (weight.dim() - 2))
    assert relative(changed(x.double()), network.double()(x.double())) < 1e-12


@torch.no_grad()
def test_a_candidate_that_something_else_reads_is_found_and_not_folded():
    network, call = stack(), Call(batches()[0][0])
    candidates = producers_of(network, ["out", "up"], call)
    assert candidates == {"last": ("out",), "rms": ("up",)}
    factors = {name: torch.linspace(0.5, 2, 16) for name in ("out", "up")}
    assert proven(network, candidates, factors, call) == {"rms": ("up",)}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_quiet_channel_is_not_blown_up():
    """It counts as a quarter of the median one: should it wake up later, it is no outlier."""
    network, largest = nn.Sequential(nn.Linear(6, 8)), torch.tensor([1.0, 1.0, 1.0, 1e-6, 100.0, 0.0])
    found = smoothing_of(network, {"0": largest}, Call((torch.randn(2, 6),)), SmoothingRecipe()).factors["0"]
    wanted = smoothing_factors(torch.tensor([1.0, 1.0, 1.0, 0.25, 100.0, 0.25]), network[0].weight, 0.75)
    torch.testing.assert_close(found, wanted)


def test_what_lies_in_front_and_shares_its_weights_is_left_alone():
    network, call = stack(), Call(batches()[0][0])
    network.rms.weight = network.last.weight
    assert producers_of(network, ["out", "up", "proj"], call) == {"group": ("proj",)}


@torch.no_grad()
def test_the_factors_of_layers_behind_one_norm_are_one():
    network = stack()
    largest = dict.fromkeys(("to_q", "to_k", "to_v"), torch.tensor([1.0] * 8 + [2.0] * 7 + [30.0]))
    found = smoothing_of(network, largest, Call(batches()[0][0]), SmoothingRecipe(threshold=2.0)).factors
    weight = torch.cat([network.get_submodule(name).weight for name in largest])
    for name in largest:
        assert torch.equal(found[name], smoothing_factors(largest[name], weight, 0.75))


@torch.no_grad()
def test_a_folded_network_is_saved_loaded_and_run_in_int8(folded, tmp_path):
    pytest.importorskip("openvino")
    loaded = ptq4dm.load(folded.save(tmp_path / "int8"), module=Stack())
    (x,), _ = batches()[0]
    assert torch.equal(loaded.network(x), folded.network(x))
    engines = [model.to_module("openvino") for model in (folded, loaded)]
    first, second = (engine(x) for engine in engines)
    assert torch.equal(first, second) and relative(first, folded.network(x)) < 1e-2
    assert all(layer.int8 for layer in engines[0].ptq4dm_engine.executed)


@torch.no_grad()
def test_the_bias_takes_back_the_mean_error_of_smoothed_weights():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32))
    x = torch.randn(2000, 64) * 0.1 + torch.linspace(-3, 3, 64)
    x[:, 5] *= 60
    means = {}
    for correction in (True, False):
        recipe = ptq4dm.load_recipe("w8a8").replace(weights={"weighted": False, "bias_correction": correction})
        model = ptq4dm.quantize_module(network, [((x,), {})], recipe)
        assert smoothed(model.network) == {"0"}
        means[correction] = float((model.network(x) - network(x)).mean(0).abs().mean())
    assert means[True] < 0.7 * means[False]


@torch.no_grad()
def test_convolutions_without_outliers_gain_too():
    """Channels four times apart, as in front of the convolutions of a trained UNet."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1))
    spread = torch.logspace(0, 2, 16, base=2).view(1, -1, 1, 1)
    network[0].weight /= spread  # what a channel contributes does not go by its size
    calls = [((torch.randn(4, 16, 8, 8) * spread,), {}) for _ in range(4)]
    x = torch.randn(8, 16, 8, 8) * spread
    default, off = (ptq4dm.quantize_module(network, calls, recipe).network for recipe in ("w8a8", OFF))
    assert smoothed(default) == {"0"} and not smoothed(off)
    assert relative(default(x), network(x)) < 0.85 * relative(off(x), network(x))


@torch.no_grad()
def test_grouped_convolutions_are_left_alone():
    network = nn.Sequential(nn.Conv2d(16, 16, 3, groups=16))
    model = ptq4dm.quantize_module(network, [((torch.randn(4, 16, 8, 8),), {})])
    assert not smoothed(model.network) and model.plan[0].quantized


def test_statistics_are_those_of_the_divided_input_and_are_saved(tmp_path):
    generator = torch.Generator().manual_seed(0)
    network, x = nn.Sequential(nn.Conv2d(3, 8, 1)), torch.randn(4, 3, 5, 5, generator=generator)
    factors = torch.tensor([0.5, 8.0, 3.0])
    watched = observe(network, ["0"], [(Call((x,)), None)], shown=False, smoothing={"0": factors})
    plain = observe(network, ["0"], [(Call((x / factors.view(3, 1, 1),)), None)], shown=False)
    for key in ("counts", "low", "high", "channel_sum", "channel_largest"):
        assert torch.equal(getattr(watched["0"], key), getattr(plain["0"], key))
    largest: Tensor = (x / factors.view(3, 1, 1)).abs().amax((0, 2, 3)).double()
    assert torch.equal(watched["0"].channel_largest, largest.unsqueeze(0))
    table = choose_ranges(watched, RangeRecipe())
    table.save(tmp_path / "table.safetensors")
    loaded = RangeTable.load(tmp_path / "table.safetensors")
    assert loaded.fingerprint == table.fingerprint
    assert torch.equal(loaded.statistics["0"].smoothing, factors)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": 1.5}, "alpha = 1.5 should be from 0 to 1"),
        ({"threshold": 0.5}, "threshold = 0.5 should be at least 1"),
        ({"threshold": math.nan}, "threshold = nan should be at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values, message):
    with pytest.raises(ptq4dm.errors.RecipeError, match=message):
        ptq4dm.load_recipe(ptq4dm.load_recipe("w8a8").replace(smoothing=values))
