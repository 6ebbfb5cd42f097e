"""Adapters (LoRA and its kin) in a network: they are fused before it is quantized.

An adapter wraps a layer and adds a product of its own, in float, at each call. Fused, it is part of the weights and is
rounded with them.
"""

import sys
from typing import Any

from torch import nn

from ptq4dm.errors import ModelError

PEFT = "peft.tuners.tuners_utils"
"""Where peft's layers come from: a network can only have some if it was imported."""


def require_no_adapters(network: nn.Module, name: str) -> None:
    """Raise ModelError that names the adapters of `network` and the mend; disabled and fused ones count, since they
    still wrap layers, whose names an artifact could not be loaded by."""
    layers = adapter_layers(network)
    if not layers:
        return
    first, layer = next(iter(layers.items()))
    names = sorted({adapter for layer in layers.values() for adapter in layer._all_available_adapter_names()})
    if all(layer.merged for layer in layers.values()):
        state, mend = "fused but not unloaded", ("pipe.unload_lora_weights()", "network.unload_lora()")
    elif all(layer.disable_adapters or not layer.active_adapters for layer in layers.values()):
        state, mend = "loaded but disabled", ("pipe.unload_lora_weights()", "network.unload_lora()")
    else:
        state = "active"
        mend = ("pipe.fuse_lora(); pipe.unload_lora_weights()", "network.fuse_lora(); network.unload_lora()")
    raise ModelError(
        f"{name} has adapters that are {state}: {', '.join(names)} (on {len(layers)} layers, the first {first}, a "
        f"{type(layer).__name__} of peft): before quantizing call {mend[0]}, of a network by itself {mend[1]}, of a "
        "PeftModel merge_and_unload()"
    )


def adapter_layers(network: nn.Module) -> dict[str, Any]:
    """The layers of `network` that peft has wrapped, by name."""
    if PEFT not in sys.modules:
        return {}
    kind = sys.modules[PEFT].BaseTunerLayer
    return {name: module for name, module in network.named_modules() if isinstance(module, kind)}
