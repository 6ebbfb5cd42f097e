"""Float parts of a diffusion network in the form that OpenVINO's CPU plugin runs fastest between INT8 convolutions.

INT8 convolutions read and write channels-last memory. OpenVINO's own group normalisation and diffusers' attention
reshape channels-first tensors and so force a copy into another layout and back around each. The forms here compute
the same numbers (float rounding aside) with per-channel sums, 1x1 convolutions and broadcasts only. They are about as
careful as PyTorch's own forms: sums of many numbers are sums of shorter sums, not one number added after the other.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ptq4dm.pipelines.forwards import replaced_forward
from ptq4dm.quantization.layers import QuantizedLinear
from ptq4dm.quantization.weight_only import WeightOnlyLinear

TILE = 4
"""The longest side of the tiles that are averaged at a time, where the side has such a divisor."""
PART = 32
"""How many products of a row are added before their sum joins the others; at least half as many."""


@contextmanager
def friendly_forwards(network: nn.Module, samples: int | None = None) -> Iterator[None]:
    """While open, parts of `network` run in the engine's form: group normalisations, spatial self-attentions and
    sinusoidal embeddings of the time-step; and float linear layers on one row a sample, if told how many `samples`
    the calls have.
    """
    with ExitStack() as stack:
        for module in network.modules():
            form = form_of(module, samples)
            if form is not None:
                stack.enter_context(replaced_forward(module, form))
        yield


def form_of(module: nn.Module, samples: int | None) -> Callable[..., Any] | None:
    """The forward that stands in for a module's own; None if that stays."""
    if isinstance(module, nn.GroupNorm):
        return partial(group_norm, module)
    if isinstance(module, Attention) and is_spatial_self_attention(module):
        return partial(spatial_self_attention, module)
    if isinstance(module, Timesteps):
        return partial(within, ExponentialsAsConstants(), module.forward)
    if samples and isinstance(module, nn.Linear | WeightOnlyLinear):
        return partial(within, LinearInParts(samples), module.forward)
    return None


def group_norm(module: nn.GroupNorm, input: Tensor) -> Tensor:
    """Group normalisation of (batch, channels, *spatial) by means over space, then over the channels of a group.

    y = (x - mean) / sqrt(var + eps) * weight + bias (Wu & He, "Group Normalization", 2018, arXiv 1803.08494). var is
    the mean over the channels c of E[(x - mean_c)**2] + (mean_c - mean)**2. E[x**2] - mean**2 reads x as often, and its
    rounding error grows with mean**2 / var.
    """
    x, channels, groups = input, module.num_channels, module.num_groups
    if x.dim() == 2:
        return type(module).forward(module, x)
    ones = (1,) * (x.dim() - 2)
    members = np.full((channels // groups, channels // groups), groups / channels, np.float32)
    averaging = torch.from_numpy(np.kron(np.eye(groups, dtype=np.float32), members))  # a constant of the trace
    channel_mean = mean_over_space(x)
    deviation = x - channel_mean
    mean = F.linear(channel_mean.flatten(1), averaging)
    between = channel_mean.flatten(1) - mean
    variance = F.linear(mean_over_space(deviation * deviation).flatten(1) + between * between, averaging)
    factor = torch.rsqrt(variance + module.eps)
    if module.affine:
        factor = factor * module.weight
    shift = -mean * factor
    if module.affine:
        shift = shift + module.bias
    return x * factor.reshape(-1, channels, *ones) + shift.reshape(-1, channels, *ones)


def mean_over_space(x: Tensor) -> Tensor:
    """Mean of (batch, channels, *spatial) over space, (batch, channels, 1, ...), by pooling tile by tile.

    Pooling adds up one number after the other; a float32 sum of 1,024 of them is off by several times what PyTorch's
    is, and every activation of the group with it.
    Pooling is as fast as OpenVINO's reductions, and right where those return garbage: with oneDNN held to AVX2 by
    ONEDNN_MAX_CPU_ISA on a processor with AVX-512, ReduceMean, ReduceL2 and MVN mix kernels of both (2026.4).
    """
    sides = [int(side) for side in x.shape[2:]]
    average = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(sides)]
    while any(side > 1 for side in sides):
        tile = [largest_part(side, TILE) for side in sides]
        x = average(x, tile)
        sides = [side // part for side, part in zip(sides, tile, strict=True)]
    return x


def largest_part(length: int, limit: int) -> int:
    """The largest divisor of `length` up to `limit`; the whole length where that is 1."""
    divisor = max(part for part in range(1, limit + 1) if length % part == 0)
    return divisor if divisor > 1 else length


def within(mode: TorchFunctionMode, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The forward of a module, with some of PyTorch's functions replaced in it."""
    with mode:
        return forward(*args, **kwargs)


class LinearInParts(TorchFunctionMode):
    """While open, `F.linear` adds products in parts on one row for each of so many samples.

    Layers that follow the time-step are called so, and what they round away reaches every pixel.
    """

    def __init__(self, samples: int):
        super().__init__()
        self.samples = samples

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function itself, or `linear_in_parts` for `F.linear` on such rows."""
        rows = func is F.linear and args[0].shape[:-1] == (self.samples,)
        return (linear_in_parts if rows else func)(*args, **(kwargs or {}))


def linear_in_parts(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` on (rows, in), PART products added at a time where the width has such a divisor.

    The sums of all parts take in / PART times the room of the answer, so it is for few rows.
    """
    part = largest_part(weight.shape[1], PART)
    if not PART // 2 <= part <= PART:
        return F.linear(input, weight, bias)
    parts = input.unflatten(1, (-1, 1, part)) @ weight.unflatten(1, (-1, part)).permute(1, 2, 0)
    ones = torch.from_numpy(np.ones((1, parts.shape[1]), np.float32)).to(parts.dtype)  # a constant of the trace
    y = (ones @ parts.squeeze(2)).squeeze(1)
    return y if bias is None else y + bias


class ExponentialsAsConstants(TorchFunctionMode):
    """While open, `torch.exp` gives a constant of the trace, computed by PyTorch.

    For the frequencies of the time-step's embedding: no input changes them, and t multiplies what is off in them, as in
    an exponential that the engine folds with other last bits.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function itself, its answer taken out of the trace if it is an exponential."""
        value = func(*args, **(kwargs or {}))
        return torch.from_numpy(value.numpy().copy()) if func is torch.exp else value


def is_spatial_self_attention(module: Attention) -> bool:
    """Whether this is the attention block of an unconditional UNet: over the pixels of one map, no masks, no extras."""
    plain = (
        module.spatial_norm is None,
        module.norm_cross is None,
        module.norm_q is None,
        module.norm_k is None,
        module.to_k is not None and module.to_v is not None and module.to_out is not None,
        not module.only_cross_attention,
        module.added_kv_proj_dim is None,
    )
    return all(plain)


def spatial_self_attention(
    module: Attention,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None = None,
    attention_mask: Tensor | None = None,
    **unused: Any,
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over the pixels of (batch, channels, height, width), projections as 1x1 convolutions.

    Falls back to the module's own forward for any other call.
    """
    x = hidden_states
    if x.dim() != 4 or encoder_hidden_states is not None or attention_mask is not None:
        return type(module).forward(module, x, encoder_hidden_states, attention_mask, **unused)
    height, width = x.shape[2], x.shape[3]
    normed = x if module.group_norm is None else module.group_norm(x)

    def heads(projection: nn.Module | None) -> Tensor:
        y = project(projection, normed).permute(0, 2, 3, 1)
        return y.reshape(x.shape[0], height * width, module.heads, y.shape[3] // module.heads).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(
        heads(module.to_q), heads(module.to_k), heads(module.to_v), scale=module.scale
    )
    mixed = mixed.transpose(1, 2).reshape(x.shape[0], height, width, mixed.shape[1] * mixed.shape[3])
    assert module.to_out is not None  # is_spatial_self_attention asked
    y = project(module.to_out[0], mixed.permute(0, 3, 1, 2))
    return (y + x if module.residual_connection else y) / module.rescale_output_factor


def project(linear: nn.Module | None, x: Tensor) -> Tensor:
    """A linear layer along axis 1 of (batch, in, height, width), as a 1x1 convolution."""
    if isinstance(linear, QuantizedLinear):
        return linear.forward(x, channels_first=True)  # type: ignore[call-arg]  # of the forward that stands in
    if isinstance(linear, nn.Linear):
        return F.conv2d(x, linear.weight[:, :, None, None].to(x.dtype), linear.bias)
    assert linear is not None  # is_spatial_self_attention asked
    return linear(x.movedim(1, -1)).movedim(-1, 1)
