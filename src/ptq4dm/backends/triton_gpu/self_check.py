"""Are the kernels exact on this GPU? Asked of the network's own layers, on the worst inputs there are."""

from collections.abc import Mapping

import torch
from torch import nn

from ptq4dm.backends.exactness import ULPS_ALLOWED, distance, hard_inputs
from ptq4dm.backends.triton_gpu.layers import TritonConv, TritonLayer
from ptq4dm.errors import BackendError
from ptq4dm.quantization.layers import QuantizedLayer


@torch.no_grad()
def self_check(layers: Mapping[str, QuantizedLayer], forms: Mapping[str, nn.Module], device: torch.device) -> None:
    """Run one layer of each kind on the kernels and compare with float64.

    Raises BackendError that names the layer and the GPU if the kernel is off by more than its rounding.
    """
    for name in representatives(forms):
        layer, form = layers[name], forms[name]
        home = layer.weight.device
        x = hard_inputs(layer.to("cpu"))
        y = form.to(device)(x.to(device)).cpu()
        off = distance(layer, x, y)
        layer.to(home)
        form.to(home)
        if off > ULPS_ALLOWED:
            raise BackendError(
                f"the INT8 kernels are not exact on {described(device)}: layer {name!r} is {off:.3g} float32 units "
                f"off (up to {ULPS_ALLOWED:g} is rounding). Use backend='simulated', and report it with "
                "the versions of torch, triton and the driver"
            )


def representatives(forms: Mapping[str, nn.Module]) -> list[str]:
    """The first layer in INT8 of each kind that makes a kernel of its own."""
    first: dict[tuple, str] = {}
    for name, form in forms.items():
        if isinstance(form, TritonLayer):
            first.setdefault(kind(form), name)
    return list(first.values())


def kind(form: TritonLayer) -> tuple:
    """What decides which code a kernel is compiled to: window, smoothing, bias, and by what its sizes divide."""
    window = tuple(form.geometry.numbers()) if isinstance(form, TritonConv) else ()
    channels, columns = form.weight.shape[-1], form.weight.shape[0]
    return (*window, form.step.numel() > 1, form.bias is None, channels % 128 == 0, channels % 16, columns % 16)


def described(device: torch.device) -> str:
    """The device, for messages."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "Triton's interpreter"
