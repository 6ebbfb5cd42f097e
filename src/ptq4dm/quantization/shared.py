"""Layers that a network has under several names: one layer in memory, one in files, all its names again when loaded."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ptq4dm.errors import ArtifactError
from ptq4dm.quantization.attention_products import product_names
from ptq4dm.quantization.half_layers import half_names
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.layers_qdq import quantized_names
from ptq4dm.quantization.weight_only import weight_only_names


def shared_names(network: nn.Module) -> dict[str, str]:
    """The further names of quantized layers, and of float ones with smaller weights, each with the first name."""
    names = (*quantized_names(network), *half_names(network), *weight_only_names(network))
    first = {id(network.get_submodule(name)): name for name in names}
    return {
        name: first[id(module)]
        for name, module in network.named_modules(remove_duplicate=False)
        if first.get(id(module), name) != name
    }


def layers_entry(network: nn.Module) -> dict[str, Any]:
    """What a quantized network's config says of its layers: the names of the quantized ones, of those with weights in
    float16 and with 8-bit weights only, of attentions with 8-bit products, further names of any, and whether some have
    smoothed inputs."""
    smoothed = any(isinstance(module, QuantizedLayer) and module.smoothing is not None for module in network.modules())
    entry: dict[str, Any] = {"layers": quantized_names(network)} | ({"smoothed": True} if smoothed else {})
    further = {"half": half_names(network), "weight_only": weight_only_names(network), "shared": shared_names(network),
               "attention_products": product_names(network)}  # fmt: skip
    return entry | {key: value for key, value in further.items() if value}


def share(network: nn.Module, shared: Mapping[str, str], where: Any) -> None:
    """Register layers under their further names too. Raises ArtifactError that names `where`: a name that is in no
    module."""
    for name, first in shared.items():
        owner, _, attribute = name.rpartition(".")
        try:
            setattr(network.get_submodule(owner), attribute, network.get_submodule(first))
        except AttributeError as error:
            raise ArtifactError(
                f"{where}: the network has no place for the layer {first!r} under its other name {name!r}: quantize "
                "the model again"
            ) from error


def belongs(tensor: str, shared: Mapping[str, str]) -> bool:
    """Whether a tensor's name is that of a layer under one of its further names."""
    parts = tensor.split(".")
    return any(".".join(parts[:end]) in shared for end in range(1, len(parts)))


def saved_tensors(tensors: Mapping[str, Tensor], shared: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of a network as safetensors files hold them: shared layers once, and no two in the same memory."""
    kept: dict[str, Tensor] = {}
    used: set[int] = set()
    for name, tensor in tensors.items():
        if belongs(name, shared):
            continue
        place = tensor.untyped_storage().data_ptr()
        kept[name] = tensor.clone() if place in used else tensor
        used.add(place)
    return kept


def all_tensors(tensors: Mapping[str, Tensor], shared: Mapping[str, str]) -> dict[str, Tensor]:
    """What a network asks for: saved tensors, those of shared layers under every name."""
    under = {
        f"{name}{key.removeprefix(first)}": tensor
        for name, first in shared.items()
        for key, tensor in tensors.items()
        if key.startswith(f"{first}.")
    }
    return {**tensors, **under}
