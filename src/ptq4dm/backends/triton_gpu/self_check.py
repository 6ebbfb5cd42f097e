"""Are the kernels exact on this GPU? Asked of the network's own layers, on the worst inputs there are."""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import nn

from ptq4dm.backends.exactness import ULPS_ALLOWED, distance, hard_inputs
from ptq4dm.backends.triton_gpu.kernels.launching import MEASURED, Settings, forced, numbered
from ptq4dm.backends.triton_gpu.layers import TritonConv, TritonLayer
from ptq4dm.errors import BackendError
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.time_bands import at_band


@torch.no_grad()
def self_check(layers: Mapping[str, QuantizedLayer], forms: Mapping[str, nn.Module], device: torch.device) -> None:
    """Run one layer of each kind on the kernels, with each tile measured for it, and compare with float64.

    Raises BackendError that names the layer and the GPU if the kernel is off by more than its rounding.
    """
    for name, tile in representatives(forms, device):
        layer, form = layers[name], forms[name]
        home = layer.weight.device
        layer.to("cpu")
        form.to(device)
        with nullcontext() if tile is None else forced(tile):
            off = max(distance_in(band, layer, form, device) for band in range(layer.input_scale.numel()))
        layer.to(home)
        form.to(home)
        if off > ULPS_ALLOWED:
            with_tile = f" with the tile {tile.name}" if tile else ""
            raise BackendError(
                f"the INT8 kernels are not exact on {described(device)}: layer {name!r} is {off:.3g} float32 units "
                f"off{with_tile} (up to {ULPS_ALLOWED:g} is rounding). Use backend='simulated', and report it with "
                "the versions of torch, triton and the driver"
            )


def distance_in(band: int, layer: QuantizedLayer, form: nn.Module, device: torch.device) -> float:
    """How far a layer on the kernels is off in one band of time-steps (0 where there are none)."""
    with nullcontext() if layer.bands is None else at_band(layer.bands, band):
        x = hard_inputs(layer)
        return distance(layer, x, form(x.to(device)).cpu())


def representatives(forms: Mapping[str, nn.Module], device: torch.device) -> list[tuple[str, Settings | None]]:
    """The first layer in INT8 of each kind that makes a kernel of its own, with every tile that was measured for such
    a layer on the device; with the default, None, where none was."""
    first: dict[tuple, tuple[str, Settings | None]] = {}
    for name, form in forms.items():
        if isinstance(form, TritonLayer):
            for tile in MEASURED.get((numbered(device), *form.product_kind), {}).values() or (None,):
                first.setdefault((kind(form), tile), (name, tile))
    return list(first.values())


def kind(form: TritonLayer) -> tuple:
    """What decides which code a kernel is compiled to: window, smoothing, bias, and by what its sizes divide."""
    window = tuple(form.geometry.numbers()) if isinstance(form, TritonConv) else ()
    channels, columns = form.weight.shape[-1], form.weight.shape[0]
    return (
        *window,
        form.smoothed,
        form.bands is None,
        form.bias is None,
        channels % 128 == 0,
        channels % 16,
        columns % 16,
    )


def described(device: torch.device) -> str:
    """The device, for messages."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "Triton's interpreter"
