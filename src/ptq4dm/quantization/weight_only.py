"""Layers with weights in 8 bits whose inputs stay in float: those that follow the time-step alone, and sensitive ones.

What a layer of time gets wrong is the same for every picture: it does not average out, and what reaches the network's
answer is a gain or a shift that changes with t. They do next to no work (one row a call, not one a pixel), so their
inputs need no integers, but they hold 7 % of the weights of `emoji-32`, so their weights do: all but those of the
first, from which the others have the time-step, and which are few. Of a sensitive layer, rounding the inputs makes the
most error; its weights in 8 bits, rounded with error feedback, cost little and a quarter of the room (but for the few
of the most sensitive ones: `sensitivity.best_in_half`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptq4dm.quantization.layers import CONVOLUTIONS, FixedTypes, padding_of
from ptq4dm.quantization.weights import quantize_weight

BECAUSE: Final = "follows the time-step alone, so its errors would be the same for every picture: "
REASON: Final = BECAUSE + "weights in INT8, input in float"
FIRST_REASON: Final = BECAUSE + "in float, as the first of them"


class WeightOnlyLayer(FixedTypes, ABC):
    """A layer, float in and float out.

    Buffers: `weight` int8 (out, in / groups, *kernel); `bias` float32 (out,) or None. `weight_scale` float32 (out,) is
    a parameter, as in `QuantizedLayer`.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    smoothing: Final = None

    def __init__(self, source: nn.Module):
        super().__init__()
        weight = source.weight
        assert isinstance(weight, Tensor)
        self.register_buffer("weight", torch.zeros(weight.shape, dtype=torch.int8))
        self.weight_scale = nn.Parameter(torch.ones(len(weight)), requires_grad=False)
        self.register_buffer("bias", None if source.bias is None else torch.zeros(len(weight)))

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output, in the dtype of its input."""
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        channel = (-1, *[1] * (self.weight.dim() - 2))
        y = self.products(x) * self.output_scale(x.dtype).view(channel)
        return (y if self.bias is None else y + self.bias.to(x.dtype).view(channel)).to(input.dtype)

    @abstractmethod
    def products(self, x: Tensor) -> Tensor:
        """The sums of products with the integers of the weights."""

    def centred_input(self, x: Tensor) -> Tensor:
        """What is multiplied with the integers of the weights: the input itself."""
        return x

    def input_step(self) -> Tensor:
        """What one unit of that stands for: 1."""
        return torch.ones((), device=self.weight.device)

    def output_scale(self, dtype: torch.dtype) -> Tensor:
        """The scale of the weights, per output."""
        return self.weight_scale.to(dtype)


class WeightOnlyLinear(WeightOnlyLayer):
    """A fully connected layer: (..., in) -> (..., out)."""

    def __init__(self, source: nn.Linear):
        super().__init__(source)
        self.in_features, self.out_features = source.in_features, source.out_features

    def products(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(x, self.weight.to(x.dtype))


class WeightOnlyConv(WeightOnlyLayer):
    """A convolution (1d, 2d, 3d; padded with zeros): (batch, in, *spatial) -> (batch, out, *spatial)."""

    def __init__(self, source: nn.Conv1d | nn.Conv2d | nn.Conv3d):
        super().__init__(source)
        self.convolve = next(CONVOLUTIONS[kind] for kind in CONVOLUTIONS if isinstance(source, kind))
        self.in_channels, self.out_channels = source.in_channels, source.out_channels
        self.kernel_size: tuple[int, ...] = source.kernel_size
        self.stride: tuple[int, ...] = source.stride
        self.padding, self.dilation, self.groups = padding_of(source), source.dilation, source.groups

    def products(self, x: Tensor) -> Tensor:
        """Sums over the window of each output."""
        return self.convolve(x, self.weight.to(x.dtype), None, self.stride, self.padding, self.dilation, self.groups)


def has_weight_only_form(layer: nn.Module | None) -> bool:
    """Whether a float layer is one of those that can hold their weights in 8 bits and take float inputs."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear)


def empty_weight_only_form(source: nn.Module) -> WeightOnlyLayer:
    """The form of a float layer that `has_weight_only_form`, to be filled."""
    if isinstance(source, nn.Linear):
        return WeightOnlyLinear(source)
    assert isinstance(source, nn.Conv1d | nn.Conv2d | nn.Conv3d)  # has_weight_only_form
    return WeightOnlyConv(source)


def weight_only_form(source: nn.Module, name: str) -> WeightOnlyLayer:
    """A float layer with its weights rounded to 8 bits. Raises ModelError, naming the layer, for weights that are not
    finite."""
    new = empty_weight_only_form(source)
    weight, bias = source.weight, source.bias
    assert isinstance(weight, Tensor)
    integers, scale = quantize_weight(weight.detach(), False, None, name)
    new.to(weight.device).weight.copy_(integers)
    new.weight_scale.copy_(scale)
    new.bias = bias.detach().float().clone() if isinstance(bias, Tensor) else None
    return new.train(source.training)


def weight_only_forms(network: nn.Module, names: Iterable[str]) -> dict[str, WeightOnlyLayer]:
    """The form of each named layer of a float network that has one, rounded to the nearest."""
    layers = {name: network.get_submodule(name) for name in names}
    return {name: weight_only_form(layer, name) for name, layer in layers.items() if has_weight_only_form(layer)}


def reasons_of(names: Iterable[str]) -> dict[str, str]:
    """Why each of the layers that follow the time-step is no INT8 layer, in the order of the network."""
    first, *others = [*names] or [""]
    return {first: FIRST_REASON} | dict.fromkeys(others, REASON)


def weight_only_names(network: nn.Module) -> list[str]:
    """The layers of a network whose weights alone are in 8 bits."""
    return [name for name, module in network.named_modules() if isinstance(module, WeightOnlyLayer)]


def put_weight_only_layers(network: nn.Module, names: Sequence[str]) -> None:
    """Put an empty form of each named layer in its place. A network on the meta device works too."""
    for name in names:
        owner, _, attribute = name.rpartition(".")
        source = network.get_submodule(name)
        empty = empty_weight_only_form(source)
        device = next(source.parameters()).device
        setattr(network.get_submodule(owner), attribute, empty.to(device))
