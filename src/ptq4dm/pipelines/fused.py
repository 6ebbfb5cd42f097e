"""Fused projections: one linear layer in place of those of query, key and value (`pipe.fuse_qkv_projections()`).

diffusers adds the fused layers and keeps the single ones, which nothing calls from then on; of a UNet that was unfused
again it keeps the fused ones. No config tells of any of this. What is not in use is put aside while a network is
quantized, so that it is neither planned nor saved.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from diffusers.models.attention_processor import Attention
from torch import nn

from ptq4dm.errors import ArtifactError, ModelError

FUSED: Final[Mapping[str, tuple[str, ...]]] = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
    "to_added_kv": ("add_k_proj", "add_v_proj"),
}
"""The fused layers of an attention, and the single ones that each takes the place of."""


def fused_attentions(network: nn.Module) -> list[str]:
    """The names of the attentions of a network that call their fused layers. Raises ModelError: only some of them do,
    which `fuse_qkv_projections` could not make again."""
    flagged = {name: module for name, module in network.named_modules() if vars(module).get("fused_projections")}
    used = [name for name, module in flagged.items() if calls_fused(module)]
    if used and len(used) < len(flagged):
        other = next(name for name in flagged if name not in used)
        raise ModelError(
            f"{type(network).__name__} calls the fused projections of {used[0]} and not those of {other}, and no "
            "artifact could be loaded so: call fuse_qkv_projections() again, or set the same processors everywhere"
        )
    return used


def calls_fused(attention: Any) -> bool:
    """Whether an attention that was fused calls its fused layers; of the older class its processor decides."""
    return not isinstance(attention, Attention) or type(attention.processor).__name__.startswith("Fused")


def idle_layers(network: nn.Module) -> list[tuple[nn.Module, str]]:
    """The layers of fused attentions, and of those that once were, that are not in use: owner and attribute."""
    idle = []
    for module in network.modules():
        if not vars(module).get("fused_projections"):
            continue
        for fused, single in FUSED.items():
            if module._modules.get(fused) is None:
                continue
            idle += [(module, key) for key in (single if calls_fused(module) else (fused,))]
    return [(module, key) for module, key in idle if module._modules.get(key) is not None]


def drop_idle_layers(network: nn.Module) -> None:
    """Take the layers that the attentions of a network do not use away from it."""
    for module, key in idle_layers(network):
        module._modules[key] = None


@contextmanager
def saved_unfused(part: Any) -> Iterator[None]:
    """While open, a part has the layers that its config tells of: no fused ones."""
    fused = [module for module in part.modules() if vars(module).get("fused_projections")] if is_module(part) else []
    held = [(module, key, module._modules[key]) for module in fused for key in FUSED if key in module._modules]
    try:
        for module, key, _ in held:
            del module._modules[key]
        yield
    finally:
        for module, key, layer in held:
            module._modules[key] = layer


def is_module(part: Any) -> bool:
    """Whether a part of a pipeline is a network."""
    return isinstance(part, nn.Module)


@contextmanager
def idle_layers_aside(parts: Iterable[Any]) -> Iterator[None]:
    """While open, the networks among `parts` are without the layers that their attentions do not use."""
    idle = [pair for part in parts if is_module(part) for pair in idle_layers(part)]
    held = [(module, key, module._modules[key]) for module, key in idle]
    try:
        for module, key, _ in held:
            module._modules[key] = None
        yield
    finally:
        for module, key, layer in held:
            module._modules[key] = layer


def fuse_again(network: Any, names: Sequence[str], where: Any) -> None:
    """Fuse the projections of a network as they were when it was saved.

    names: `fused_attentions`. A network on the meta device works too. Raises ArtifactError that names `where`.
    """
    if not names:
        return
    if callable(getattr(network, "fuse_qkv_projections", None)):
        type(network).fuse_qkv_projections(network)
    if fused_attentions(network) != list(names):
        raise ArtifactError(
            f"{where}: its projections were fused on {len(names)} attention layers, and this diffusers does not fuse "
            f"the same of a {type(network).__name__}: quantize the model again"
        )
