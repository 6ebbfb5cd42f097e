"""What tests of layers with 8-bit weights and float inputs have in common: a recipe, calls, and engines to ask."""

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


def pictures():
    """Nine x_t: enough that some meet no rounding that falls the other way."""
    return torch.randn(9, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def answer(network, x=None, t=400):
    return network(pictures() if x is None else x, torch.tensor(t)).sample


def near(found, network):
    """Whether answers to `pictures()` are those of the simulated network: to float rounding where no rounding to 8 bits
    falls the other way, as in a third of them at least, and where one does, by no more than 5 %."""
    wanted = answer(network)
    apart = ((found - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)).sort().values
    return bool(apart[2] < 1e-5) and bool(apart[-1] < 0.05)
