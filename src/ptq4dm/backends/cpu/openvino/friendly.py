"""Float parts of a diffusion network in the form that OpenVINO's CPU plugin runs fastest between INT8 convolutions.

INT8 convolutions read and write channels-last memory. OpenVINO's own group normalisation and diffusers' attention
reshape channels-first tensors and so force a copy into another layout and back around each. The forms here compute
the same numbers (float rounding aside) with per-channel sums, 1x1 convolutions and broadcasts only.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from ptq4dm.pipelines.forwards import replaced_forward
from ptq4dm.quantization.layers import QuantizedLinear

TILE = 8
"""The longest side of the tiles that are averaged first."""


@contextmanager
def friendly_forwards(network: nn.Module) -> Iterator[None]:
    """While open, the group normalisations and the spatial self-attentions of `network` run in the engine's form."""
    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, nn.GroupNorm):
                stack.enter_context(replaced_forward(module, partial(group_norm, module)))
            elif isinstance(module, Attention) and is_spatial_self_attention(module):
                stack.enter_context(replaced_forward(module, partial(spatial_self_attention, module)))
        yield


def group_norm(module: nn.GroupNorm, input: Tensor) -> Tensor:
    """Group normalisation of (batch, channels, *spatial) by sums over space, then over the channels of a group.

    y = (x - mean) * rsqrt(var + eps) * weight + bias (Wu & He, "Group Normalization", 2018, arXiv 1803.08494).
    """
    x, channels, groups = input, module.num_channels, module.num_groups
    space = tuple(range(2, x.dim()))
    if not space:
        return type(module).forward(module, x)
    members = np.full((channels // groups, channels // groups), groups / channels, np.float32)
    averaging = torch.from_numpy(np.kron(np.eye(groups, dtype=np.float32), members))  # a constant of the trace
    ones = (1,) * len(space)
    mean, mean_square = (F.linear(moment, averaging) for moment in moments(x))
    factor = torch.rsqrt((mean_square - mean * mean).clamp(min=0) + module.eps)
    if module.affine:
        factor = factor * module.weight
    shift = -mean * factor
    if module.affine:
        shift = shift + module.bias
    return x * factor.reshape(-1, channels, *ones) + shift.reshape(-1, channels, *ones)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of x and of x**2 over space, each (batch, channels), by pooling in two stages.

    Pooling adds up one number after the other; a float32 sum of 1,024 of them is off by several times what PyTorch's
    is, and every activation of the group with it. Two shorter sums are as good as PyTorch's.
    Pooling is as fast as OpenVINO's reductions, and right where those return garbage: with oneDNN held to AVX2 by
    ONEDNN_MAX_CPU_ISA on a processor with AVX-512, ReduceMean, ReduceL2 and MVN mix kernels of both (2026.4).
    """
    sides = [int(side) for side in x.shape[2:]]
    tile = [max(part for part in range(1, TILE + 1) if side % part == 0) for side in sides]
    average = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(sides)]

    def mean(y: Tensor) -> Tensor:
        stages = [tile, [side // part for side, part in zip(sides, tile, strict=True)]]
        for stage in stages:
            y = y if set(stage) == {1} else average(y, stage)
        return y.flatten(1)

    return mean(x), mean(x * x)


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
