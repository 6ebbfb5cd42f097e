"""Are the kernels around the layers exact on this GPU? One of each family that a prepared network uses is asked.

Normalisations and gates that round, products that add, convolutions of enlarged pictures: `self_check` sees none of
them, since a layer by itself runs none. They run with the network's own weights, steps and zero points, on few and
small inputs, in float32 and in the network's half precision, and are compared with float64 on the same device.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from ptq4dm.backends.exactness import ULPS_ALLOWED, hard_inputs
from ptq4dm.backends.triton_gpu import operators
from ptq4dm.backends.triton_gpu.blocks import TWICE, FusedResnetBlock2D, FusedUpsample2D, rounded_together
from ptq4dm.backends.triton_gpu.kernels.bands import per_channel
from ptq4dm.backends.triton_gpu.layers import TritonConv, TritonLayer, channels_last
from ptq4dm.backends.triton_gpu.residuals import AddingTransformer2DModel, AddingTransformerBlock
from ptq4dm.backends.triton_gpu.rounded_gates import RoundedActivation
from ptq4dm.backends.triton_gpu.rounded_norms import RoundedForEach, RoundedNorm
from ptq4dm.backends.triton_gpu.self_check import described
from ptq4dm.backends.triton_gpu.up_blocks import FusedUpBlock2D
from ptq4dm.errors import BackendError
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.time_bands import at_band

Layers = Mapping[str, QuantizedLayer]
SIDES: Final = (5, 17)
"""Of pictures that are normalised: on a GPU the places of the second are gathered in several parts."""
STEPS_ALLOWED: Final = 0.5 + 2.0**-6
"""How far an integer may be from what it stands for, in steps."""
SLACK: Final = 2.0**-18
"""What float32 may do to a number before it is rounded, as a share of the numbers that it is the sum of."""
ADDED: Final = 1.0
"""What adding an embedding and a residual may do beside `ULPS_ALLOWED`, in the same unit."""
ADDING: Final = {Attention: "to_out.0", AddingTransformerBlock: "ff.net.2", AddingTransformer2DModel: "proj_out"}
"""The linear layers that add a residual, by the module that they are the last of."""


@dataclass(frozen=True)
class Check:
    """A family of kernels, where the network uses it, and how far that is off in a type on a device, as a multiple of
    what rounding explains."""

    family: str
    name: str
    off: Callable[[torch.dtype, torch.device], float]


@torch.no_grad()
def check_around(prepared: nn.Module, layers: Layers, dtypes: Sequence[torch.dtype], device: torch.device) -> None:
    """Run one kernel of each family that a prepared network uses around its layers, and compare with float64.

    layers: the quantized layers that were replaced, by name. Raises BackendError that names family, place and GPU if a
    kernel is off by more than its rounding.
    """
    for check in checks(prepared, layers):
        for dtype in dtypes:
            off = check.off(dtype, device)
            if off > 1:
                raise BackendError(
                    f"the INT8 kernels are not exact on {described(device)}: {check.family} of {check.name!r} is off "
                    f"in {dtype}, {off:.3g} times as far as rounding explains. Use backend='simulated', and report it "
                    "with the versions of torch, triton and the driver"
                )


def checks(prepared: nn.Module, layers: Layers) -> list[Check]:
    """The first use of each family in a prepared network."""
    first: dict[str, Check] = {}
    for name, module in prepared.named_modules():
        for check in used_by(name, module, layers):
            first.setdefault(check.family, check)
    return list(first.values())


def used_by(name: str, module: nn.Module, layers: Layers) -> Iterator[Check]:
    """The kernels that a module uses around its layers."""
    if isinstance(module, FusedResnetBlock2D):
        yield from used_by_block(name, module, layers)
    elif isinstance(module, FusedUpBlock2D):
        for index, block in enumerate(module.resnets):
            if isinstance(block, FusedResnetBlock2D) and (pair := rounded_together(block)):
                norm = Normalisation(block.norm1, pair[0], True, pair[1], two=True)
                yield Check("the normalisation of two tensors", f"{name}.resnets.{index}", norm.off)
    elif isinstance(module, FusedUpsample2D):
        yield from sums("the convolution of an enlarged picture", f"{name}.conv", module.conv, layers, TWICE)
    elif isinstance(module, RoundedNorm):
        kind = "the layer normalisation" if isinstance(module.norm, nn.LayerNorm) else "the group normalisation"
        yield Check(kind, name, Normalisation(module.norm, module).off)
    elif isinstance(module, RoundedActivation):
        yield Check("the gate" if module.gated else "the activation", name, partial(gate_off, module))
    elif isinstance(module, RoundedForEach):
        yield Check("the normalisation for queries, keys and values", name, partial(each_off, module))
    elif type(module) in ADDING:
        path = ADDING[type(module)]
        last = dict(module.named_modules()).get(path)
        yield from sums("the linear layer that adds", f"{name}.{path}", last, layers)


def used_by_block(name: str, block: FusedResnetBlock2D, layers: Layers) -> Iterator[Check]:
    """The kernels that a residual block uses."""
    activated = "the group normalisation with SiLU"
    if pair := rounded_together(block):
        norm = Normalisation(block.norm1, pair[0], True, pair[1])
        yield Check("the normalisation that rounds for a shortcut", f"{name}.norm1", norm.off)
    elif isinstance(block.conv1, TritonConv) and block.downsample is None:
        yield Check(activated, f"{name}.norm1", Normalisation(block.norm1, block.conv1, True).off)
        if block.upsample is not None:
            yield from sums("the convolution of an enlarged picture", f"{name}.conv1", block.conv1, layers, TWICE)
    if isinstance(block.conv2, TritonConv):
        kind = activated + (", scaled and shifted" if block.scale_shift else "")
        norm = Normalisation(block.norm2, block.conv2, True, modulated=block.scale_shift)
        yield Check(kind, f"{name}.norm2", norm.off)
        yield from sums("the convolution that adds", f"{name}.conv2", block.conv2, layers)


def sums(family: str, name: str, form: object, layers: Layers, upsample: int = 1) -> Iterator[Check]:
    """The check of a layer, where that is in INT8."""
    if isinstance(form, TritonLayer) and name in layers:
        yield Check(family, name, partial(sum_off, form, layers[name], upsample))


@dataclass(frozen=True)
class Grid:
    """The integers of a layer, or of what rounds for it: step and zero point; where those are tables, of bands of
    time-steps, the last: `band` (1,)."""

    step: Tensor
    zero_point: Tensor
    band: Tensor | None

    def off(self, q: Tensor, value: Tensor, size: Tensor) -> float:
        """How far integers are from those of `value`, float64, the sum of numbers of that size."""
        step, zero = self.step.double(), self.zero_point.double()
        if self.band is not None:
            step, zero = step[-1], zero[-1]
        away = (q.double() - (value / step + zero).clamp(-128, 127)).abs()
        return worst((away - SLACK * size / step) / STEPS_ALLOWED)


def channels_of(norm: nn.GroupNorm | nn.LayerNorm) -> int:
    """How many channels a normalisation has."""
    return norm.normalized_shape[0] if isinstance(norm, nn.LayerNorm) else norm.num_channels


def grid_of(layer: TritonLayer | RoundedNorm | RoundedActivation, device: torch.device) -> Grid:
    """The integers of a layer, on a device."""
    step, zero = layer.step.to(device), layer.zero_point.to(device)
    return Grid(step, zero, None if layer.bands is None else torch.tensor([len(zero) - 1], device=device))


@dataclass(frozen=True)
class Normalisation:
    """A normalisation that rounds for `reader`. shortcut: the layer that its own input is rounded for; two: whether
    that is two tensors side by side; modulated: whether its output is scaled and shifted."""

    norm: nn.GroupNorm | nn.LayerNorm
    reader: TritonLayer | RoundedNorm
    silu: bool = False
    shortcut: TritonConv | None = None
    two: bool = False
    modulated: bool = False

    def off(self, dtype: torch.dtype, device: torch.device) -> float:
        """How far it is off."""
        return max(self.off_at(side, dtype, device) for side in SIDES)

    def off_at(self, side: int, dtype: torch.dtype, device: torch.device) -> float:
        """How far it is off on pictures of that side."""
        norm, grid = self.norm, grid_of(self.reader, device)
        weight, bias = (None if one is None else one.to(device, dtype) for one in (norm.weight, norm.bias))
        channels = channels_of(norm)
        x = numbers((2, side, side, channels), dtype, device)
        scale = numbers((2, channels), dtype, device) if self.modulated else None
        shift = None if scale is None else scale.flip(-1)
        if isinstance(norm, nn.LayerNorm):
            q = operators.layer_norm_quantize(
                x, weight, bias, norm.eps, grid.step, grid.zero_point, None, None, grid.band
            )
            normed, straight = F.layer_norm(x.double(), (channels,), eps=norm.eps), 0.0
        else:
            assert weight is not None and bias is not None  # `plain` has looked, and `known_block`
            given = (norm.num_groups, weight, bias, norm.eps, self.silu, grid.step, grid.zero_point)
            q, straight = self.rounded(x, given, grid, scale, shift)
            normed = channels_last(F.group_norm(x.double().movedim(-1, 1), norm.num_groups, eps=norm.eps))
        parts = [normed if weight is None else normed * weight.double()]
        parts += [] if bias is None else [bias.double().expand_as(normed)]
        if scale is not None and shift is not None:
            factor, added = (item.double()[:, None, None].expand_as(normed) for item in (1 + scale.double(), shift))
            parts = [*(part * factor for part in parts), added]
        value, size = torch.stack(parts).sum(0), torch.stack(parts).abs().sum(0)
        return max(straight, grid.off(q, F.silu(value) if self.silu else value, size))

    def rounded(
        self, x: Tensor, given: tuple, grid: Grid, scale: Tensor | None, shift: Tensor | None
    ) -> tuple[Tensor, float]:
        """The integers of a group normalisation, and how far those of its input are off."""
        if self.shortcut is None:
            return operators.group_norm_quantize(x, *given, scale, shift, grid.band), 0.0
        own, split = grid_of(self.shortcut, x.device), x.shape[-1] // 32 * 16 or x.shape[-1] // 2
        left, right = (x[..., :split], x[..., split:]) if self.two else (x, None)
        q, straight = operators.group_norm_and_own_quantize(left, right, *given, own.step, own.zero_point, grid.band)
        return q, own.off(straight, x.double(), x.double().abs())


def each_off(module: RoundedForEach, dtype: torch.dtype, device: torch.device) -> float:
    """How far a normalisation is off that rounds for several layers: each by its own step and zero point."""
    norm, step, zero = module.norm, module.step.to(device), module.zero_point.to(device)
    band = None if module.bands is None else torch.tensor([zero.shape[1] - 1], device=device)
    x = numbers((2, 25, channels_of(norm)), dtype, device)
    weight, bias = (None if one is None else one.to(device, dtype) for one in (norm.weight, norm.bias))
    if isinstance(norm, nn.LayerNorm):
        q = operators.layer_norm_quantize(x, weight, bias, norm.eps, step, zero, None, None, band, len(step))
        normed = F.layer_norm(x.double(), x.shape[-1:], eps=norm.eps)
    else:
        assert weight is not None and bias is not None  # `plain` has looked
        given = (norm.num_groups, weight, bias, norm.eps, False)
        q = operators.group_norm_quantize(x, *given, step, zero, None, None, band, len(step))
        normed = channels_last(F.group_norm(x.double().movedim(-1, 1), norm.num_groups, eps=norm.eps))
    factor, added = (None if one is None else one.double() for one in (weight, bias))
    value = (normed if factor is None else normed * factor) + (0.0 if added is None else added)
    size = (normed if factor is None else normed * factor).abs() + (0.0 if added is None else added.abs())
    return max(Grid(step[i], zero[i], band).off(q[i], value, size) for i in range(len(step)))


def gate_off(gate: RoundedActivation, dtype: torch.dtype, device: torch.device) -> float:
    """How far a gate or an activation is off."""
    grid = grid_of(gate, device)
    channels = gate.step.shape[-1] if per_channel(grid.step, grid.band) else 40
    if not gate.gated:
        x = numbers((2, 5, channels), dtype, device)
        q = operators.gelu_quantize(x, gate.tanh, grid.step, grid.zero_point, grid.band)
        return grid.off(q, F.gelu(x.double(), approximate="tanh" if gate.tanh else "none"), x.double().abs())
    x = numbers((2, 5, 2 * channels), dtype, device)
    value, gating = x.double().chunk(2, dim=-1)
    q = operators.geglu_quantize(x, grid.step, grid.zero_point, grid.band)
    return grid.off(q, value * F.gelu(gating), (value * gating).abs())


def sum_off(form: TritonLayer, layer: QuantizedLayer, upsample: int, dtype: torch.dtype, device: torch.device) -> float:
    """How far a layer is off that reads an enlarged picture, or else adds an embedding and a residual."""
    band = nullcontext() if layer.bands is None else at_band(layer.bands, len(layer.input_scale) - 1)
    with band, placed(form, device), placed(layer, device):
        x = hard_inputs(layer).to(device)
        exact = layer(x.double() if upsample == 1 else F.interpolate(x.double(), scale_factor=float(upsample)))
        if isinstance(form, TritonConv):
            x, exact = channels_last(x), channels_last(exact)
        product = exact if layer.bias is None else exact - layer.bias.double()
        q, size, allowed = form.integers(x), product.abs(), ULPS_ALLOWED
        if isinstance(form, TritonConv) and upsample > 1:
            y = form.product(q, dtype, upsample=upsample)
        else:
            unit = min(float(size.mean()), 1024.0)  # which half precision holds many of
            embedding = unit * numbers((len(exact), exact.shape[-1]), dtype, device)
            residual = unit * numbers(tuple(exact.shape), dtype, device)
            y, allowed = form.product(q, dtype, embedding, residual), allowed + ADDED
            added = embedding.double().view(len(exact), *[1] * (exact.dim() - 2), -1), residual.double()
            exact, size = exact + sum(added), size + sum(part.abs() for part in added)
        explained = allowed * spacing(torch.maximum(size, exact.abs()), torch.float32)
        if dtype != torch.float32:
            explained += spacing(exact.abs(), dtype)
        same = y == exact.to(dtype)  # infinite, too, beyond the largest number of a type
        return worst(torch.where(same, 0.0, (y.double() - exact).abs() / explained))


def numbers(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same random numbers every time, about 1."""
    return (2 * torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 1).to(device, dtype)


def spacing(size: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance between neighbouring numbers of a type at a size, float64."""
    kind = torch.finfo(dtype)
    exponent = torch.frexp(size.double().clamp(min=kind.tiny)).exponent
    return torch.ldexp(torch.full_like(size, kind.eps, dtype=torch.float64), exponent - 1)


def worst(off: Tensor) -> float:
    """The largest; infinite if one is no number."""
    largest = float(off.max())
    return largest if largest == largest else float("inf")


@contextmanager
def placed(layer: TritonLayer | QuantizedLayer, device: torch.device) -> Iterator[None]:
    """While open, a layer is on a device."""
    home = layer.weight.device
    layer.to(device)
    try:
        yield
    finally:
        layer.to(home)
