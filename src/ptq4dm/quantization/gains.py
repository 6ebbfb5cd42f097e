"""Scales with which a rounded layer answers as much as the float one: no layer makes its answer a little smaller.

The range of an input that loses least squared error cuts the largest values, so the error of a rounded input runs
against the input, and the layer answers with (1 + g) of what it should, g below 0 in every layer of `emoji-32`. It is a
few ten-thousandths, hardly seen in the squared error; but it has the same sign in all layers, where noise averages
out. With y the float layer's answer, and d what the rounded one is away from it on the same input, about their means::

    g = E[d y] / E[y²]

and the layer's scales are divided by 1 + g. The mean of the error is taken back by the bias, as of the weights alone
(`bias`). That what loses least squared error attenuates is known of regression on inputs with errors: Fuller,
"Measurement Error Models", Wiley, 1987, Section 1.1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ptq4dm.calibration.calls import evenly_spread
from ptq4dm.pipelines.denoiser import Call, layer_input
from ptq4dm.progress import progress
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.ranges.observe import evaluating
from ptq4dm.recipe import WeightRecipe

CALLS = 32
"""Calls that gains are measured on, evenly spread over those given."""
STEADY = 1e-9
"""A layer whose answers vary by less than this share of their mean square always gives the same answer: what is left of
the variance is the rounding of sums."""


@dataclass
class Answers:
    """Sums over places of a layer's float answers y and of what the rounded one is away, d, by output channel (out,)
    float64."""

    count: int
    y: Tensor
    d: Tensor
    yy: Tensor
    dy: Tensor

    def add(self, y: Tensor, d: Tensor) -> None:
        """Count answers (n, out)."""
        y, d = y.double(), d.double()
        self.count += len(y)
        for total, values in ((self.y, y), (self.d, d), (self.yy, y * y), (self.dy, d * y)):
            total += values.sum(0).cpu()

    def gain(self, centred: bool) -> float:
        """g; about the means if `centred`. 0 for a layer that always gives the same answer."""
        product, square = self.dy, self.yy
        if centred:
            product, square = product - self.d * self.y / self.count, square - self.y.square() / self.count
        total = float(square.sum())
        return float(product.sum()) / total if total > STEADY * float(self.yy.sum()) else 0.0


@torch.no_grad()
def correct_gains(
    network: nn.Module,
    layers: Mapping[str, QuantizedLayer],
    calls: Sequence[Call],
    recipe: WeightRecipe,
    shown: bool = False,
) -> dict[str, float]:
    """Divide the scales of `layers` by their gains and take the mean of their errors back; returns g by layer.

    network: the float network, on whose own inputs each layer is looked at alone. calls: of its calibration. A layer
    that is not called, or whose gain is no number above -1, stays as it is.
    """
    found = answers(network, layers, calls, shown)
    gains: dict[str, float] = {}
    for name, item in found.items():
        layer = layers[name]
        gain = item.gain(centred=isinstance(layer.bias, Tensor))
        if not -1 < gain < float("inf"):
            continue
        gains[name] = gain
        layer.weight_scale.div_(1 + gain)
        if isinstance(layer.bias, Tensor):
            before = layer.bias.double().cpu()
            wanted = item.y if recipe.bias_correction else item.y + item.d
            bias = wanted / item.count - ((item.y + item.d) / item.count - before) / (1 + gain)
            layer.bias.copy_(bias.to(layer.bias))
    return gains


def answers(
    network: nn.Module, layers: Mapping[str, QuantizedLayer], calls: Sequence[Call], shown: bool = False
) -> dict[str, Answers]:
    """The sums for each of `layers` that is called."""
    found: dict[str, Answers] = {}

    def hook(name: str, layer: QuantizedLayer) -> Callable[..., None]:
        def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            y = by_channel(output, module)
            d = by_channel(layer(layer_input(args, kwargs)), module) - y
            if name not in found:
                found[name] = Answers(0, *torch.zeros(4, y.shape[1], dtype=torch.float64))
            found[name].add(y, d)

        return watch

    taken = evenly_spread(calls, CALLS)
    handles = [
        network.get_submodule(name).register_forward_hook(hook(name, layer), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        with evaluating(network), progress("gain of layers", len(taken), shown) as advance:
            for call in taken:
                network(*call.args, **call.kwargs)
                advance(1)
    finally:
        for handle in handles:
            handle.remove()
    return found


def by_channel(answer: Tensor, layer: nn.Module) -> Tensor:
    """An answer (batch, out, *spatial), or (..., out) of a linear layer, as (n, out)."""
    spatial = len(getattr(layer, "kernel_size", ()))
    return answer.movedim(-spatial - 1, -1).flatten(0, -2) if answer.dim() > 1 else answer[None]
