"""The normalisation in front of a layer, timed with it: beside INT8 it rounds in one kernel, beside float it does not.

A layer whose input a normalisation rounds is not faster in INT8 by its product alone: if torch's own normalisation took
less time than the kernel that normalises and rounds, float could be the faster all in all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptq4dm.backends.triton_gpu import operators
from ptq4dm.backends.triton_gpu.blocks import known_block
from ptq4dm.backends.triton_gpu.layers import TritonConv, TritonLayer, band_on
from ptq4dm.backends.triton_gpu.rounded_norms import places, plain

EPS: Final = 1e-5
"""Of normalisations that are timed: any number does."""


@dataclass(frozen=True)
class Norm:
    """A normalisation in front of a layer. groups: 0 of a LayerNorm; silu: whether a SiLU follows; readers: how many
    layers of that shape read what it gives (queries, keys and values)."""

    groups: int
    silu: bool = False
    readers: int = 1


def norms_of(network: nn.Module) -> dict[str, Norm]:
    """The normalisation in front of each layer that alone, or with others of its shape, reads what one gives."""
    names = {id(module): name for name, module in network.named_modules()}
    found: dict[str, Norm] = {}
    for module in network.modules():
        if known_block(module):
            for norm, reader in ((module.norm1, module.conv1), (module.norm2, module.conv2)):
                found[names[id(reader)]] = Norm(norm.num_groups, silu=True)
        for owner, name, readers, _ in places(module):
            norm = getattr(owner, name)
            if plain(norm):
                groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else 0
                found |= {names[id(reader)]: Norm(groups, readers=len(readers)) for reader in readers}
    return found


class Prologue:
    """A normalisation of weights of our own in front of one layer, in the type of its input `x`."""

    def __init__(self, norm: Norm, kernel: TritonLayer, x: Tensor):
        self.norm, self.kernel = norm, kernel
        self.moved = norm.groups > 0 and not isinstance(kernel, TritonConv)  # torch wants the channels second
        channels = x.shape[1 if isinstance(kernel, TritonConv) else -1]
        self.weight, self.bias = (
            torch.linspace(low, 1.5, channels, device=x.device).to(x.dtype) for low in (0.5, -1.5)
        )
        plainly = layer_norm if not norm.groups else group_norm_silu if norm.silu else group_norm
        self.normalise = fastest(plainly, x.movedim(-1, 1) if self.moved else x, *self.arguments)

    @property
    def arguments(self) -> tuple[Tensor, Tensor, int]:
        """What torch's normalisation takes besides x."""
        return self.weight, self.bias, self.norm.groups

    def floats(self, x: Tensor) -> Tensor:
        """What the layer reads in float: of the shape of x."""
        if self.moved:
            return self.normalise(x.movedim(-1, 1), *self.arguments).movedim(1, -1)
        return self.normalise(x, *self.arguments)

    def integers(self, x: Tensor) -> Tensor:
        """What it reads in INT8: x (samples, *places, channels) -> int8."""
        rounding = (self.kernel.step, self.kernel.zero_point, None, None, band_on(self.kernel.bands, x))
        if not self.norm.groups:
            return operators.layer_norm_quantize(x, self.weight, self.bias, EPS, *rounding)
        return operators.group_norm_quantize(
            x, self.norm.groups, self.weight, self.bias, EPS, self.norm.silu, *rounding
        )


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """torch's own, on the last axis."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, EPS)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """torch's own, of (batch, channels, *places)."""
    return F.group_norm(x, groups, weight, bias, EPS)


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """The same, activated."""
    return F.silu(F.group_norm(x, groups, weight, bias, EPS))


@cache
def compiled(normalise: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A normalisation as torch.compile makes it, once for inputs of all sizes: in networks that are meant to be fast it
    is compiled too."""
    return torch.compile(normalise, dynamic=True)


def fastest(normalise: Callable[..., Tensor], x: Tensor, *arguments: Tensor | int) -> Callable[..., Tensor]:
    """How torch normalises on the device of x: compiled on a GPU, as it is where that fails, and elsewhere."""
    if x.device.type != "cuda":
        return normalise
    try:
        compiled(normalise)(x, *arguments)
    except Exception:  # compilers fail in many ways, and what is asked can do without
        return normalise
    return compiled(normalise)
