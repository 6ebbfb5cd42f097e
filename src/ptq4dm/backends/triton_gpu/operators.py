"""The kernels as operators of torch: `torch.compile` and CUDA graphs see one opaque operation each, with its shape.

Every operator has a fake implementation (the shape and type of its result, for tracing) and returns tensors of its own.
Activations lie with channels last, (samples, *spatial, channels); `layers` knows how networks hand them over.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ptq4dm.backends.triton_gpu.geometry import geometry_of
from ptq4dm.backends.triton_gpu.kernels import convolution as convolution_kernels
from ptq4dm.backends.triton_gpu.kernels import geglu, gelu, group_norm, layer_norm
from ptq4dm.backends.triton_gpu.kernels import linear as linear_kernels
from ptq4dm.backends.triton_gpu.kernels import quantize as quantize_kernels
from ptq4dm.backends.triton_gpu.kernels.launching import INTERPRETED
from ptq4dm.errors import BackendError


def require_device(x: Tensor) -> None:
    """Raise BackendError for a tensor where no kernel can run."""
    if x.device.type != "cuda" and not INTERPRETED:
        raise BackendError(
            f"a network on the triton backend was called on {x.device}: its kernels run on NVIDIA GPUs; move network "
            "and inputs there with .to('cuda')"
        )


def require_fit(
    q: Tensor, weight: Tensor, size: Sequence[int], embedding: Tensor | None, residual: Tensor | None
) -> tuple[int, ...]:
    """The shape of a product's output: (samples, *size, out).

    Raises BackendError, where torch's own layers raise too, for another number of channels than the layer's, and for
    tensors to add of another shape.
    """
    if q.shape[-1] != weight.shape[-1]:
        raise BackendError(f"an INT8 layer for {weight.shape[-1]} channels was called with {q.shape[-1]}")
    shape = (*q.shape[: q.dim() - 1 - len(size)], *size, weight.shape[0])
    for name, tensor, wanted in (("embedding", embedding, (shape[0], shape[-1])), ("residual", residual, shape)):
        if tensor is not None and tuple(tensor.shape) != wanted:
            given = tuple(tensor.shape)
            raise BackendError(f"a layer's output of {shape} takes in {name} {wanted}, not {given}")
    return shape


def size_of(q: Tensor, geometry: Sequence[int]) -> tuple[int, int, int]:
    """(depth, height, width) of a convolution's output.

    Raises BackendError for a picture that is smaller than the window, and for one of which 32 bits cannot number the
    bytes.
    """
    picture, size = "x".join(map(str, q.shape[1:4])), geometry_of(geometry).out_size(q.shape[1:4])
    if any(length < 1 for length in size):
        raise BackendError(
            f"an INT8 convolution of {'x'.join(map(str, geometry[:3]))} taps was called on a picture of {picture} "
            "(depth, height, width), which is smaller than its window"
        )
    if q[:1].numel() >= 2**31:
        raise BackendError(
            f"a picture of {picture} and {q.shape[-1]} channels has 2**31 bytes in INT8 or more: tile it"
        )
    return size


@torch.library.custom_op("ptq4dm::quantize", mutates_args=())
def quantize(x: Tensor, step: Tensor, zero_point: Tensor, band: Tensor | None = None) -> Tensor:
    """`kernels.quantize.quantize`."""
    require_device(x)
    return quantize_kernels.quantize(x, step, zero_point, band)


@quantize.register_fake
def _(x: Tensor, step: Tensor, zero_point: Tensor, band: Tensor | None = None) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.int8)


@torch.library.custom_op("ptq4dm::group_norm_quantize", mutates_args=())
def group_norm_quantize(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    step: Tensor,
    zero_point: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    band: Tensor | None = None,
    roundings: int = 1,
) -> Tensor:
    """`kernels.group_norm.group_norm_quantize` of one tensor."""
    require_device(x)
    given = (x, groups, weight, bias, eps, silu, step, zero_point, scale, shift, band)
    return group_norm.group_norm_quantize(*given, roundings=roundings)


@group_norm_quantize.register_fake
def _(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    step: Tensor,
    zero_point: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    band: Tensor | None = None,
    roundings: int = 1,
) -> Tensor:
    return x.new_empty(several_times(x.shape, roundings), dtype=torch.int8)


@torch.library.custom_op("ptq4dm::group_norm_and_own_quantize", mutates_args=())
def group_norm_and_own_quantize(
    x: Tensor,
    beside: Tensor | None,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    step: Tensor,
    zero_point: Tensor,
    own_step: Tensor,
    own_zero_point: Tensor,
    band: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`kernels.group_norm.group_norm_quantize` of x and what stands beside it; then both as they are, rounded."""
    require_device(x)
    own = torch.empty(side_by_side(x, beside), dtype=torch.int8, device=x.device)
    given = (x, groups, weight, bias, eps, silu, step, zero_point, None, None, band)
    return group_norm.group_norm_quantize(*given, beside, (own, own_step, own_zero_point)), own


@group_norm_and_own_quantize.register_fake
def _(
    x: Tensor,
    beside: Tensor | None,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    step: Tensor,
    zero_point: Tensor,
    own_step: Tensor,
    own_zero_point: Tensor,
    band: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    shape = side_by_side(x, beside)
    return x.new_empty(shape, dtype=torch.int8), x.new_empty(shape, dtype=torch.int8)


def several_times(shape: tuple[int, ...], roundings: int) -> tuple[int, ...]:
    """The shape of integers of that shape, with an axis in front for several roundings."""
    return shape if roundings == 1 else (roundings, *shape)


def side_by_side(x: Tensor, beside: Tensor | None) -> tuple[int, ...]:
    """The shape of two tensors joined on the last axis, of which one may be missing.

    Raises BackendError where torch could not join them.
    """
    if beside is not None and beside.shape[:-1] != x.shape[:-1]:
        raise BackendError(
            f"{tuple(x.shape)} and {tuple(beside.shape)} cannot be joined: all but their channels must agree"
        )
    return (*x.shape[:-1], x.shape[-1] + (0 if beside is None else beside.shape[-1]))


@torch.library.custom_op("ptq4dm::layer_norm_quantize", mutates_args=())
def layer_norm_quantize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    step: Tensor,
    zero_point: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    band: Tensor | None = None,
    roundings: int = 1,
) -> Tensor:
    """`kernels.layer_norm.layer_norm_quantize`."""
    require_device(x)
    given = (x, weight, bias, eps, step, zero_point, scale, shift, band)
    return layer_norm.layer_norm_quantize(*given, roundings)


@layer_norm_quantize.register_fake
def _(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    step: Tensor,
    zero_point: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    band: Tensor | None = None,
    roundings: int = 1,
) -> Tensor:
    return x.new_empty(several_times(x.shape, roundings), dtype=torch.int8)


@torch.library.custom_op("ptq4dm::geglu_quantize", mutates_args=())
def geglu_quantize(x: Tensor, step: Tensor, zero_point: Tensor, band: Tensor | None = None) -> Tensor:
    """`kernels.geglu.geglu_quantize`."""
    require_device(x)
    return geglu.geglu_quantize(x, step, zero_point, band)


@geglu_quantize.register_fake
def _(x: Tensor, step: Tensor, zero_point: Tensor, band: Tensor | None = None) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2), dtype=torch.int8)


@torch.library.custom_op("ptq4dm::gelu_quantize", mutates_args=())
def gelu_quantize(x: Tensor, tanh: bool, step: Tensor, zero_point: Tensor, band: Tensor | None = None) -> Tensor:
    """`kernels.gelu.gelu_quantize`."""
    require_device(x)
    return gelu.gelu_quantize(x, tanh, step, zero_point, band)


@gelu_quantize.register_fake
def _(x: Tensor, tanh: bool, step: Tensor, zero_point: Tensor, band: Tensor | None = None) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.int8)


@torch.library.custom_op("ptq4dm::linear", mutates_args=())
def linear(
    q: Tensor,
    weight: Tensor,
    weight_sums: Tensor,
    input_scale: Tensor,
    zero_point: Tensor,
    weight_scale: Tensor,
    dtype: torch.dtype,
    bias: Tensor | None,
    embedding: Tensor | None,
    residual: Tensor | None,
    out_step: Tensor | None,
    out_zero_point: Tensor | None,
    band: Tensor | None = None,
) -> Tensor:
    """`kernels.linear.linear`."""
    require_device(q)
    require_fit(q, weight, q.shape[1:-1] if q.dim() > 1 else (), embedding, residual)
    weights = (weight, weight_sums, input_scale, zero_point, weight_scale)
    return linear_kernels.linear(q, *weights, dtype, bias, embedding, residual, out_step, out_zero_point, band)


@linear.register_fake
def _(
    q: Tensor,
    weight: Tensor,
    weight_sums: Tensor,
    input_scale: Tensor,
    zero_point: Tensor,
    weight_scale: Tensor,
    dtype: torch.dtype,
    bias: Tensor | None,
    embedding: Tensor | None,
    residual: Tensor | None,
    out_step: Tensor | None,
    out_zero_point: Tensor | None,
    band: Tensor | None = None,
) -> Tensor:
    shape = require_fit(q, weight, q.shape[1:-1] if q.dim() > 1 else (), embedding, residual)
    return q.new_empty(shape, dtype=dtype if out_step is None else torch.int8)


@torch.library.custom_op("ptq4dm::convolution", mutates_args=())
def convolution(
    q: Tensor,
    weight: Tensor,
    weight_sums: Tensor,
    input_scale: Tensor,
    zero_point: Tensor,
    weight_scale: Tensor,
    geometry: Sequence[int],
    dtype: torch.dtype,
    bias: Tensor | None,
    embedding: Tensor | None,
    residual: Tensor | None,
    out_step: Tensor | None,
    out_zero_point: Tensor | None,
    band: Tensor | None = None,
) -> Tensor:
    """`kernels.convolution.convolution`. geometry: `Geometry.numbers`."""
    require_device(q)
    require_fit(q, weight, size_of(q, geometry), embedding, residual)
    weights = (weight, weight_sums, input_scale, zero_point, weight_scale)
    return convolution_kernels.convolution(
        q, *weights, geometry_of(geometry), dtype, bias, embedding, residual, out_step, out_zero_point, band
    )


@convolution.register_fake
def _(
    q: Tensor,
    weight: Tensor,
    weight_sums: Tensor,
    input_scale: Tensor,
    zero_point: Tensor,
    weight_scale: Tensor,
    geometry: Sequence[int],
    dtype: torch.dtype,
    bias: Tensor | None,
    embedding: Tensor | None,
    residual: Tensor | None,
    out_step: Tensor | None,
    out_zero_point: Tensor | None,
    band: Tensor | None = None,
) -> Tensor:
    shape = require_fit(q, weight, size_of(q, geometry), embedding, residual)
    return q.new_empty(shape, dtype=dtype if out_step is None else torch.int8)
