"""Attention processors of a network: what diffusers swaps to change how attention is computed.

A pipeline may swap them while it runs (perturbed-attention guidance does) and put its own back only at the end of a
run, to which a watched run never comes; fused projections add layers that no config tells of.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from ptq4dm.errors import ModelError


@contextmanager
def processors_restored(parts: Mapping[str, Any]) -> Iterator[None]:
    """While open, the networks among `parts` may get other attention processors; afterwards they have their own."""
    before = [pair for part in parts.values() for pair in processors_of(part).items()]
    try:
        yield
    finally:
        for module, processor in before:
            if module.processor is not processor:
                module.set_processor(processor)


def processors_of(part: Any) -> dict[Any, Any]:
    """The attention processor of each attention layer of a network; of anything else none."""
    if not isinstance(part, nn.Module):
        return {}
    return {
        module: module.processor
        for module in part.modules()
        if callable(getattr(module, "set_processor", None)) and hasattr(module, "processor")
    }


def require_unfused(network: nn.Module, name: str) -> None:
    """Raise ModelError if projections of `network` are fused, or were: diffusers leaves the fused layers of a UNet
    behind. Its config does not tell of them, so an artifact with them could not be loaded."""
    fused = [key for key, module in network.named_modules() if vars(module).get("fused_projections")]
    if fused:
        raise ModelError(
            f"{name} has fused projections (on {len(fused)} attention layers, the first {fused[0]}), and no artifact "
            "with them could be loaded: before quantizing call pipe.unfuse_qkv_projections(), and for a UNet, which "
            "keeps its fused layers even so, open the pipeline again without pipe.fuse_qkv_projections()"
        )
