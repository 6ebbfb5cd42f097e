"""Linear layers with weights in 8 bits whose inputs stay in float: those that follow the time-step alone.

What such a layer gets wrong is the same for every picture: it does not average out, and what reaches the network's
answer is a gain or a shift that changes with t. They do next to no work (one row a call, not one a pixel), so their
inputs need no integers, but they hold 7 % of the weights of `emoji-32`, so their weights do: all but those of the
first, from which the others have the time-step, and which are few.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptq4dm.quantization.layers import FixedTypes
from ptq4dm.quantization.weights import quantize_weight

BECAUSE: Final = "follows the time-step alone, so its errors would be the same for every picture: "
REASON: Final = BECAUSE + "weights in INT8, input in float"
FIRST_REASON: Final = BECAUSE + "in float, as the first of them"


class WeightOnlyLinear(FixedTypes):
    """A linear layer, float in and float out.

    Buffers: `weight` int8 (out, in); `bias` float32 (out,) or None. `weight_scale` float32 (out,) is a parameter, as in
    `QuantizedLayer`.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    smoothing: Final = None

    def __init__(self, source: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        shape = (source.out_features, source.in_features)
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.int8))
        self.weight_scale = nn.Parameter(torch.ones(source.out_features), requires_grad=False)
        self.register_buffer("bias", None if source.bias is None else torch.zeros(source.out_features))

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the input."""
        dtype = torch.promote_types(input.dtype, torch.float32)
        y = F.linear(input.to(dtype), self.weight.to(dtype)) * self.output_scale(dtype)
        return (y if self.bias is None else y + self.bias.to(dtype)).to(input.dtype)

    def centred_input(self, x: Tensor) -> Tensor:
        """What is multiplied with the integers of the weights: the input itself."""
        return x

    def input_step(self) -> Tensor:
        """What one unit of that stands for: 1."""
        return torch.ones((), device=self.weight.device)

    def output_scale(self, dtype: torch.dtype) -> Tensor:
        """The scale of the weights, per output."""
        return self.weight_scale.to(dtype)


def weight_only_form(source: nn.Linear, name: str, second_moment: Tensor | None = None) -> WeightOnlyLinear:
    """A float layer with its weights rounded to 8 bits. second_moment: (in,) of its input, as in `quantize_weight`.

    Raises ModelError, naming the layer, for weights that are not finite.
    """
    new = WeightOnlyLinear(source).to(source.weight.device)
    integers, scale = quantize_weight(source.weight.detach(), False, second_moment, name)
    new.weight.copy_(integers)
    new.weight_scale.copy_(scale)
    new.bias = None if source.bias is None else source.bias.detach().float().clone()
    return new.train(source.training)


def reasons_of(names: Iterable[str]) -> dict[str, str]:
    """Why each of the layers that follow the time-step is no INT8 layer, in the order of the network."""
    first, *others = [*names] or [""]
    return {first: FIRST_REASON} | dict.fromkeys(others, REASON)


def weight_only_names(network: nn.Module) -> list[str]:
    """The layers of a network whose weights alone are in 8 bits."""
    return [name for name, module in network.named_modules() if isinstance(module, WeightOnlyLinear)]


def put_weight_only_layers(network: nn.Module, names: Sequence[str]) -> None:
    """Put an empty form of each named linear layer in its place. A network on the meta device works too."""
    for name in names:
        owner, _, attribute = name.rpartition(".")
        source = network.get_submodule(name)
        assert isinstance(source, nn.Linear)  # filling has looked
        setattr(network.get_submodule(owner), attribute, WeightOnlyLinear(source).to(source.weight.device))
