"""Smooth inputs: move what channels differ by from a layer's input, where one range serves them all, to its weights.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", 2023, arXiv
2211.10438, Eq. 3 and 4: ``y = (x / s) (s w)`` with a factor for each input channel j::

    s_j = max|x_j| ** alpha / max|w_j| ** (1 - alpha)

The factor is part of the step in which the layer rounds its input (`QuantizedLayer.smoothing`): dividing by s_x s_j
costs what dividing by s_x does. So every layer is smoothed, those of convolutional networks too, whose channels differ
by a factor of 2 to 4: the squared error of a call of `emoji-32` falls to 0.6 of what it was. Where channels are
outliers and a norm or linear layer puts out what only such layers take in, its own tensors are divided instead
(`folding`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ptq4dm.pipelines.denoiser import Call, layer_input
from ptq4dm.quantization.folding import Folds, producers_of, proven
from ptq4dm.quantization.layers import weight_of
from ptq4dm.ranges.observe import as_rows
from ptq4dm.recipe import SmoothingRecipe

QUIET = 0.25
"""Channels smaller than so many times the median one count as if they were that large: few samples may have missed
what they can reach, and a factor of nearly 0 would make outliers of them."""


@dataclass(frozen=True)
class Smoothing:
    """factors: by layer, (in,) float32. folds: the layers in front that take factors in, and those behind them."""

    factors: Mapping[str, Tensor] = field(default_factory=dict)
    folds: Folds = field(default_factory=dict)


def smoothing_of(
    network: nn.Module, largest: Mapping[str, Tensor], example: Call, recipe: SmoothingRecipe
) -> Smoothing:
    """How to smooth the layers of `network`, and which of those with outlier channels can be folded.

    largest: the largest magnitude of each input channel by layer, of the layers that are to be quantized. example: a
    call of the network. Layers behind one norm share their factors, by which it is divided once for all.
    """
    if not recipe.enabled:
        return Smoothing()
    chosen = [name for name in largest if can_be_smoothed(network.get_submodule(name))]
    outlying = [name for name in chosen if outlier_ratio(largest[name]) > recipe.threshold]
    folds = producers_of(network, outlying, example) if outlying else {}
    together = {name: group for group in folds.values() for name in group}
    factors = {}
    for name in chosen:
        group = together.get(name, (name,))
        weight = torch.cat([columns_of(network.get_submodule(each)) for each in group])
        shared = torch.stack([largest[each] for each in group]).amax(0)
        factors[name] = smoothing_factors(shared.clamp(min=QUIET * median_of(shared)), weight, recipe.alpha)
    return Smoothing(factors, proven(network, folds, factors, example) if folds else {})


def can_be_smoothed(layer: nn.Module) -> bool:
    """Whether each input channel of a layer has weights of its own for all outputs: linear layers and convolutions, but
    no grouped or transposed ones."""
    if isinstance(layer, _ConvNd):
        return not layer.transposed and layer.groups == 1
    return isinstance(layer, nn.Linear)


def columns_of(layer: nn.Module) -> Tensor:
    """The largest magnitude of a layer's weights from each input to each output channel, (out, in)."""
    weight = weight_of(layer).detach()
    return weight.reshape(*weight.shape[:2], -1).abs().amax(2)


def outlier_ratio(largest: Tensor) -> float:
    """The largest magnitude of any channel over that of the median channel, of those that are not always 0."""
    middle = median_of(largest)
    return float(largest.max()) / middle if middle > 0 else 1.0


def median_of(largest: Tensor) -> float:
    """The magnitude of the median channel, of those that are not always 0; 0 if all are."""
    alive = largest[largest > 0]
    return float(alive.median()) if len(alive) else 0.0


def smoothing_factors(largest: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """(in,) float32, Eq. 4; 1 for a channel that is always 0 or has no weights but 0.

    largest: (in,) max|x_j|. weight: (out, in, ...).
    """
    of_weights = weight.detach().double().abs().transpose(0, 1).flatten(1).amax(1).cpu()
    of_inputs = largest.double().cpu()
    factors = of_inputs.pow(alpha) / of_weights.pow(1 - alpha)
    usable = (of_inputs > 0) & (of_weights > 0) & torch.isfinite(factors.float()) & (factors.float() > 0)
    return torch.where(usable, factors, torch.ones_like(factors)).float()


@contextmanager
def watching_largest(networks: Mapping[str, nn.Module]) -> Iterator[dict[str, dict[str, Tensor]]]:
    """While open, note the largest magnitude of each input channel of the layers that can be smoothed: by network and
    layer. A layer that is not called is absent."""
    largest: dict[str, dict[str, Tensor]] = {name: {} for name in networks}
    handles = []

    def hook(seen: dict[str, Tensor], name: str) -> Any:
        def note(layer: nn.Module, args: Sequence[Tensor], kwargs: dict[str, Tensor]) -> None:
            x = layer_input(args, kwargs).detach().float()
            rows = as_rows(x, channels_last=isinstance(layer, nn.Linear))
            if rows.numel():
                now = rows.abs().amax(dim=(0, 2)).double().cpu()
                seen[name] = torch.maximum(seen[name], now) if name in seen else now

        return note

    for key, network in networks.items():
        for name, layer in network.named_modules():
            if can_be_smoothed(layer):
                handles.append(layer.register_forward_pre_hook(hook(largest[key], name), with_kwargs=True))
    try:
        yield largest
    finally:
        for handle in handles:
            handle.remove()
