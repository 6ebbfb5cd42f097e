"""The float type of every tensor of a network, so that a pipeline in half precision is loaded as it was saved.

diffusers loads every part in float32 unless it is told otherwise, and no config tells.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from ptq4dm.errors import ArtifactError
from ptq4dm.pipelines.denoiser import HALF
from ptq4dm.quantization.layers import FixedTypes

USUAL: Final = "float32"


def float_types(network: nn.Module) -> dict[str, Any]:
    """The type of most float tensors, and by name those of the others; {} where all are float32. Layers whose tensors
    keep their types do not count."""
    found = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in castable(network)}
    if set(found.values()) <= {USUAL}:
        return {}
    usual = Counter(found.values()).most_common(1)[0][0]
    return {"usual": usual, "others": {name: kind for name, kind in found.items() if kind != usual}}


def restore_types(network: nn.Module, types: Mapping[str, Any], where: Any) -> None:
    """Cast the tensors of a network to the types that `float_types` noted. Raises ArtifactError that names `where`."""
    if not types:
        return
    for name, tensor in castable(network):
        tensor.data = tensor.data.to(to_type(types["others"].get(name, types["usual"]), where))


def castable(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The float tensors of a network by name, not those that keep their types."""
    for prefix, module in network.named_modules():
        if not isinstance(module, FixedTypes):
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None and tensor.is_floating_point():
                    yield f"{prefix}.{name}".lstrip("."), tensor


def half_type(network: nn.Module) -> torch.dtype | None:
    """The half precision that a network was cast to, whole or in part (diffusers keeps some in float32); else None."""
    return next((tensor.dtype for _, tensor in castable(network) if tensor.dtype in HALF), None)


def to_type(name: Any, where: Any) -> torch.dtype:
    """A float type of torch by name. Raises ArtifactError."""
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ArtifactError(f"{where}: {name!r} is no float type: quantize the model again")
    return found
