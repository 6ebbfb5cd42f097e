"""Sensitive layers as they are held: 8-bit weights rounded with error feedback, float inputs, on every backend."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file
from tiny import tiny_pipeline, tiny_unet
from weight_only_common import ENGINES, RECIPE, WEIGHTS, answer, of_time

import ptq4dm
from ptq4dm.quantization.half_layers import HalfConv2d, half_names
from ptq4dm.quantization.weight_only import WeightOnlyConv, WeightOnlyLinear, weight_only_form, weight_only_names

pytestmark = pytest.mark.filterwarnings("ignore::ptq4dm.errors.SimulatedWarning")


@pytest.fixture(scope="module", params=["float-out", "qdq"])
def sensitive(request):
    return ptq4dm.quantize(tiny_pipeline(), RECIPE.replace(float_share=0.4, arithmetic=request.param))


def sensitive_names(model):
    return [layer.name for layer in model.plan if layer.reason.startswith("sensitive")]


def test_sensitive_layers_hold_8_bits(sensitive, tmp_path):
    names, wanted = sensitive_names(sensitive), answer(sensitive.network)
    kinds = {type(sensitive.network.get_submodule(name)) for name in names}
    assert WeightOnlyConv in kinds <= {WeightOnlyConv, WeightOnlyLinear, HalfConv2d}
    halves = {*half_names(sensitive.network)} & {*names}
    sizes = [tiny_unet().get_submodule(name).weight.numel() for name in halves]
    assert halves and sum(sizes) <= 0.004 * sum(parameter.numel() for parameter in tiny_unet().parameters())
    assert {*names, *of_time(tiny_unet())[1:]} - halves == {*weight_only_names(sensitive.network)}
    folder = sensitive.save(tmp_path / "int8")
    tensors = load_file(folder / "unet" / WEIGHTS)
    assert all(tensors[f"{name}.weight"].dtype == (torch.float16 if name in halves else torch.int8) for name in names)
    loaded = UNet2DModel.from_pretrained(folder, subfolder="unet")
    assert torch.equal(answer(ptq4dm.load(folder).network), wanted) and torch.equal(answer(loaded), wanted)
    loaded.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / WEIGHTS)
    assert again.keys() == tensors.keys() and all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_engines_run_sensitive_layers_in_float(sensitive):
    engine = ENGINES[sensitive.recipe.arithmetic]
    pytest.importorskip(engine)
    module = sensitive.to_module(engine)
    pictures = torch.randn(10, 1, 3, 16, 16)  # of most, no value lies at a tie between two integers
    found = [float((answer(module, x) - answer(sensitive.network, x)).norm()) for x in pictures]
    assert min(found) < 1e-5 * float(answer(sensitive.network, pictures[0]).norm())
    assert not {layer.layer for layer in module.ptq4dm_engine.executed} & {*sensitive_names(sensitive)}


@torch.no_grad()
def test_feedback_keeps_the_answers_of_sensitive_layers(sensitive):
    """On the float network's own inputs, beside weights rounded to the nearest."""
    network, ratios = tiny_unet(), []
    for name in {*sensitive_names(sensitive)} & {*weight_only_names(sensitive.network)}:
        source, seen = network.get_submodule(name), []
        with source.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0])):
            for t in (100, 500, 900):
                answer(network, torch.randn(8, 3, 16, 16), t)
        errors = [
            sum(float((layer(x) - source(x)).square().sum()) for x in seen)
            for layer in (sensitive.network.get_submodule(name), weight_only_form(source, name))
        ]
        ratios.append(errors[0] / errors[1])
    assert np.exp(np.log(ratios).mean()) < 0.9
