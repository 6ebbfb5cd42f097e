"""Sensitive layers found by halving: the same as one by one, within the calls that are allowed."""

import pytest
import torch
from diffusers import DDIMScheduler, LDMPipeline, VQModel
from tiny import tiny_unet
from torch import nn

import ptq4dm
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.bisection import shares_within
from ptq4dm.quantization.plan import make_plan
from ptq4dm.quantization.rewrite import quantize_layers
from ptq4dm.quantization.sensitivity import WORTH, best_in_float, error_shares
from ptq4dm.ranges.observe import observe
from ptq4dm.ranges.range_table import choose_ranges
from ptq4dm.recipe import RangeRecipe, WeightRecipe

LOUD = (5, 40, 41)


class Chorus(nn.Module):
    """Many layers side by side, of which few are heard. Counts its calls."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(16, 16) for _ in range(64))
        self.made = 0

    def forward(self, x):
        self.made += 1
        return sum(part(x) * (3.0 if index in LOUD else 0.05) for index, part in enumerate(self.parts))


@pytest.fixture(scope="module")
def chorus():
    torch.manual_seed(0)
    network = Chorus().eval()
    calls = [Call((torch.randn(8, 16),)) for _ in range(4)]
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    statistics = observe(network, names, [(call, None) for call in calls], shown=False)
    plan = make_plan(network, statistics=statistics)
    layers = quantize_layers(network, plan, choose_ranges(statistics, RangeRecipe(), shown=False), WeightRecipe())
    return network, layers, calls


@pytest.mark.parametrize("limit", [None, 2 * 66, 2 * 66 - 1, 60])
def test_the_same_layers_as_one_by_one_in_fewer_calls(chorus, limit):
    network, layers, calls = chorus
    wanted = error_shares(network, layers, calls)
    assert {name for name, share in wanted.items() if share >= WORTH} == {f"parts.{index}" for index in LOUD}
    network.made = 0
    shares, made = shares_within(network, layers, calls, limit)
    assert made == network.made and (limit is None or made <= limit)
    assert (made == 2 * 66) == (limit in (None, 2 * 66))
    macs = dict.fromkeys(layers, 1)
    assert best_in_float(shares, macs, 0.1) == best_in_float(wanted, macs, 0.1)
    assert all(shares[name] == pytest.approx(wanted[name], rel=1e-6) for name in shares)


@pytest.mark.parametrize("limit", [0, 3, 7, 8, 12, 20])
def test_a_limit_that_is_too_small_is_kept_and_only_what_was_measured_is_told(chorus, limit):
    network, layers, calls = chorus
    wanted = error_shares(network, layers, calls)
    network.made = 0
    shares, made = shares_within(network, layers, calls, limit)
    assert made == network.made <= limit
    assert all(shares[name] == pytest.approx(wanted[name], rel=1e-6) for name in shares)


def test_one_layer_makes_the_whole_error_without_any_call(chorus):
    network, layers, calls = chorus
    assert shares_within(network, {"parts.3": layers["parts.3"]}, calls, 5) == ({"parts.3": 1.0}, 0)


def test_a_pipeline_makes_no_more_calls_for_it_than_for_its_pictures():
    """Counted by a hook of the test's own; beside them stand the run watched first and some checks of one call."""
    torch.manual_seed(0)
    vqvae = VQModel(block_out_channels=(8,), norm_num_groups=4, latent_channels=3, num_vq_embeddings=8)
    source = LDMPipeline(vqvae.eval(), tiny_unet(), DDIMScheduler())
    calls = []
    for samples, steps in ((2, 3), (8, 8), (40, 6)):
        recipe = ptq4dm.load_recipe("w8a8-minmax").replace(
            calibration={"samples": samples, "steps": steps, "batch_size": samples}
        )
        calls.clear()
        handle = source.unet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
        model = ptq4dm.quantize(source, recipe)
        handle.remove()
        facts = model.facts["calibration"]
        assert facts["calls_of"] == {"unet": facts["calls_made"]}
        assert facts["sensitivity_calls"] == model.denoiser().facts["sensitivity_calls"] <= facts["calls_made"]
        checks = sum(calls) - facts["calls_made"] - facts["sensitivity_calls"] - steps
        assert 0 < checks <= 6
