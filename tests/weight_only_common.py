"""What tests of layers with 8-bit weights and float inputs have in common: a recipe, calls, and engines to ask."""

import copy

import torch
from torch import nn

import ptq4dm
from ptq4dm.quantization.layers import QuantizedLinear
from ptq4dm.quantization.weight_only import WeightOnlyLinear

ENGINES = {"float-out": "openvino", "qdq": "onnxruntime"}
QUICK = {"samples": 4, "steps": 4, "batch_size": 4}
RECIPE = ptq4dm.load_recipe("w8a8").replace(float_share=0.0, calibration=QUICK)
WEIGHTS = "diffusion_pytorch_model.safetensors"


def of_time(network):
    """The linear layers of a UNet that follow the time-step alone, by the names that diffusers gives them."""
    return [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | QuantizedLinear | WeightOnlyLinear)
        and (name.startswith("time_embedding.") or name.endswith(".time_emb_proj"))
    ]


@torch.no_grad()
def answer(network, x=None, t=400):
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) if x is None else x
    return network(x, torch.tensor(t)).sample


def near(found, network):
    """Whether an answer is no farther from the simulated network than float32 is from float64, twice (values at ties
    are rounded to the other side)."""
    wanted = answer(network)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    flips = (answer(copy.deepcopy(network).double(), x).float() - wanted).norm()
    return float((found - wanted).norm()) <= 2 * float(flips) + 1e-4 * float(wanted.norm())
