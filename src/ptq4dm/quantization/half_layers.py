"""Layers left in float whose weights are held in float16: half the bytes, and next to no error.

The first layer that follows the time-step, the most sensitive layers of few weights (`sensitivity.best_in_half`), and
all that are too sensitive for INT8 where no calls are kept to round 8-bit weights by (`weight_only`), would otherwise
take four times its room. float16 rounds weights to 1 part in 4,096, a thirtieth of what 8 bits do, and inputs are not
rounded at all; the products are computed in the type of the input.
"""

from collections.abc import Iterable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ptq4dm.quantization.layers import FixedTypes


class HalfConv(FixedTypes, _ConvNd):
    """What the convolutions below share."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolution, in the dtype of its input."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return self._conv_forward(input, self.weight.to(input.dtype), bias)  # pyright: ignore[reportCallIssue] (each kind's own)


class HalfConv1d(HalfConv, nn.Conv1d):
    """A 1d convolution with weights in float16."""


class HalfConv2d(HalfConv, nn.Conv2d):
    """A 2d convolution with weights in float16."""


class HalfConv3d(HalfConv, nn.Conv3d):
    """A 3d convolution with weights in float16."""


class HalfLinear(FixedTypes, nn.Linear):
    """A linear layer with weights in float16."""

    def forward(self, input: Tensor) -> Tensor:
        """The layer, in the dtype of its input."""
        return F.linear(input, self.weight.to(input.dtype), None if self.bias is None else self.bias.to(input.dtype))


HALF_FORMS: Final[dict[type, type]] = {
    nn.Conv1d: HalfConv1d,
    nn.Conv2d: HalfConv2d,
    nn.Conv3d: HalfConv3d,
    nn.Linear: HalfLinear,
}


def has_half_form(layer: Any) -> bool:
    """Whether a layer can hold its weights in float16: of a kind that has such a form, and none beyond its range."""
    return type(layer) in HALF_FORMS and bool(torch.isfinite(layer.weight.detach().half()).all())


def half_form(layer: Any) -> nn.Module:
    """A layer with its weights in float16; the layer itself where it has no such form."""
    return empty_half_form(layer, layer.weight.detach().half(), layer.bias) if has_half_form(layer) else layer


def half_forms(network: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """The float16 form of each named layer of a network that has one."""
    layers = {name: network.get_submodule(name) for name in names}
    return {name: half_form(layer) for name, layer in layers.items() if has_half_form(layer)}


def empty_half_form(layer: nn.Module, weight: Tensor, bias: Any) -> nn.Module:
    """A layer of the geometry of `layer` with other tensors. They are buffers: networks ask their first parameter for
    the type to compute in, and these keep theirs."""
    kind: Any = HALF_FORMS[type(layer)]
    new = kind.__new__(kind)
    vars(new).update({key: value for key, value in vars(layer).items() if key != "_parameters"})
    held = None if bias is None else bias.detach().float().clone()
    vars(new).update(_parameters={}, _buffers={"weight": weight, "bias": held})
    return new


def put_half_layers(network: nn.Module, names: list[str]) -> None:
    """Put the empty form of each named float layer in its place. A network on the meta device works too."""
    for name in names:
        layer = network.get_submodule(name)
        weight: Any = layer.weight
        owner, _, attribute = name.rpartition(".")
        empty = empty_half_form(layer, torch.zeros_like(weight, dtype=torch.float16), layer.bias)
        setattr(network.get_submodule(owner), attribute, empty)


def half_names(network: nn.Module) -> list[str]:
    """The layers of a network that hold their weights in float16."""
    kinds = tuple(HALF_FORMS.values())
    return [name for name, module in network.named_modules() if isinstance(module, kinds)]
