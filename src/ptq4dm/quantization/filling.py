"""From a float network of the right class and saved tensors to the quantized network that they are of."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptq4dm.errors import ArtifactError
from ptq4dm.pipelines.fused import drop_idle_layers, fuse_again
from ptq4dm.quantization.attention_products import put_products
from ptq4dm.quantization.float_types import restore_types
from ptq4dm.quantization.half_layers import HALF_FORMS, put_half_layers
from ptq4dm.quantization.layers import QUANTIZABLE, quantized_form
from ptq4dm.quantization.layers_qdq import OutputQuantized
from ptq4dm.quantization.shared import all_tensors, share
from ptq4dm.quantization.time_bands import restore_bands
from ptq4dm.quantization.weight_only import has_weight_only_form, put_weight_only_layers


def fill(network: nn.Module, entry: Mapping[str, Any], tensors: dict[str, Tensor], folder: Path) -> nn.Module:
    """Put empty layers of an artifact's kinds into a float network and load the tensors.

    entry: what the artifact says of the layers (`shared.layers_entry`). Raises ArtifactError if they do not fit.
    """
    layers, shared = entry["layers"], entry.get("shared", {})
    fuse_again(network, entry.get("fused", []), folder)
    drop_idle_layers(network)
    put_empty_layers(network, layers, rounded_layers(layers, tensors), smoothed_layers(layers, tensors), folder)
    put_empty_float_layers(network, entry.get("half", []), entry.get("weight_only", []), folder)
    put_products(network, entry.get("attention_products", []), where=str(folder))
    restore_bands(network, entry.get("time_bands"), folder)
    share(network, shared, folder)
    restore_types(network, entry.get("float_types", {}), folder)
    try:
        network.load_state_dict(all_tensors(tensors, shared), strict=True)
    except RuntimeError as error:
        first = str(error).split("\n")[1].strip() if "\n" in str(error) else str(error)
        raise ArtifactError(f"{folder}: the tensors do not fit the network: {first}") from error
    check_values(tensors, folder)
    return network.eval().requires_grad_(False)


def rounded_layers(layers: Sequence[str], tensors: Collection[str]) -> list[str]:
    """The layers whose outputs are rounded (the arithmetic `qdq`), by the names of an artifact's tensors."""
    return [name for name in layers if f"{name}.output_scale" in tensors]


def smoothed_layers(layers: Sequence[str], tensors: Collection[str]) -> list[str]:
    """The layers with smoothed inputs, by the names of an artifact's tensors."""
    return [name for name in layers if {f"{name}.smoothing", f"{name}.layer.smoothing"} & set(tensors)]


def put_empty_layers(
    network: nn.Module, layers: Sequence[str], rounded: Collection[str], smoothed: Collection[str], where: Any
) -> None:
    """Replace the named float layers by quantized ones that hold nothing yet. Raises ArtifactError that names `where`.

    rounded: those with rounded outputs; smoothed: those with smoothed inputs. A network on the meta device works too.
    """
    modules = dict(network.named_modules())
    for name in layers:
        source = modules.get(name)
        if not name or source is None:
            raise ArtifactError(f"{where}: the network has no layer {name!r}, so this artifact is of another network")
        if not isinstance(source, QUANTIZABLE):
            raise ArtifactError(
                f"{where}: {name!r} of the network is a {type(source).__name__}, which has no INT8 form"
            )
        empty = quantized_form(source)
        if name in smoothed:
            empty.smoothing = torch.ones(empty.weight.shape[1], device=empty.weight.device)
        owner, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(owner), attribute, OutputQuantized(empty) if name in rounded else empty)


def put_empty_float_layers(network: nn.Module, half: Sequence[str], weight_only: Sequence[str], where: Any) -> None:
    """Replace the named float layers by ones with weights in float16, or in 8 bits. Raises ArtifactError that names
    `where`."""
    modules = dict(network.named_modules())
    for name in weight_only:
        if not has_weight_only_form(modules.get(name)):
            raise ArtifactError(f"{where}: the network has no layer {name!r} for 8-bit weights: quantize it again")
    put_weight_only_layers(network, weight_only)
    for name in half:
        if type(modules.get(name)) not in HALF_FORMS:
            raise ArtifactError(f"{where}: the network has no layer {name!r} for weights in float16: quantize it again")
    put_half_layers(network, list(half))


def check_values(tensors: Mapping[str, Tensor], where: Any) -> None:
    """Raise ArtifactError at a scale that is not positive, or a value that is not finite."""
    for name, tensor in tensors.items():
        if name.endswith(("_scale", ".smoothing")) and not bool((tensor > 0).all()):
            raise ArtifactError(f"{where}: {name} holds scales that are not positive: quantize the model again")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"{where}: {name} holds NaN or infinite values: quantize the model again")
