"""Count multiply-adds, from the shapes that a call really has."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ptq4dm.pipelines.denoiser import Call, layer_input
from ptq4dm.quantization.layers import QUANTIZABLE
from ptq4dm.ranges.observe import evaluating


def count_macs(network: nn.Module, call: Call) -> dict[str, int]:
    """Multiply-adds of every convolution and linear layer of `network` in `call`, per sample of its batch.

    The batch is the first dimension of the first tensor argument that has one. A layer called twice counts twice; a
    layer that is not called is absent.
    """
    tensors = [value for value in (*call.args, *call.kwargs.values()) if isinstance(value, Tensor) and value.dim()]
    batch = len(tensors[0]) if tensors else 1
    with counting_macs({"": network}) as macs, evaluating(network), torch.no_grad():
        network(*call.args, **call.kwargs)
    return {name: count // batch for name, count in macs[""].items()}


@contextmanager
def counting_macs(networks: Mapping[str, nn.Module]) -> Iterator[dict[str, Counter[str]]]:
    """While open, count the multiply-adds of all calls of convolutions and linear layers: by network and layer."""
    macs: dict[str, Counter[str]] = {name: Counter() for name in networks}

    def hook(of: Counter[str], name: str) -> Any:
        return lambda layer, args, kwargs, output: of.update({name: macs_of(layer, layer_input(args, kwargs), output)})

    with ExitStack() as stack:
        for key, network in networks.items():
            for name, module in network.named_modules():
                if isinstance(module, QUANTIZABLE):
                    stack.callback(module.register_forward_hook(hook(macs[key], name), with_kwargs=True).remove)
        yield macs


def macs_of(layer: nn.Module, x: Tensor, output: Tensor) -> int:
    """Multiply-adds of one call of `layer`: one product for every output element and every weight that reaches it; of a
    transposed convolution for every input element and every weight that spreads it."""
    weight: Any = layer.weight
    return (x if isinstance(layer, _ConvNd) and layer.transposed else output).numel() * math.prod(weight.shape[1:])
