"""The plan: which layers are quantized, and why the others are not. Nothing is left out in silence."""

import dataclasses
import difflib
import inspect
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Final

from torch import nn

from ptq4dm.errors import RecipeError
from ptq4dm.quantization.layers import QUANTIZABLE

ATTENTION: Final = "attention products and softmax"
"""What `float_by_method` calls them."""


@dataclass(frozen=True)
class LayerPlan:
    """What happens to one layer. kind: its class; reason: why it stays in float ("" if quantized); macs: multiply-adds
    per sample (None if not counted)."""

    name: str
    kind: str
    quantized: bool
    reason: str = ""
    macs: int | None = None


def make_plan(
    network: nn.Module,
    keep_float: Sequence[str] = (),
    statistics: Collection[str] | None = None,
    macs: Mapping[str, int] | None = None,
    min_channels: int = 1,
) -> tuple[LayerPlan, ...]:
    """Plan every layer of `network` that has a weight matrix or kernel, in the order of the network.

    keep_float: fnmatch patterns of names; one that names a block keeps the whole block. statistics: the layers that
    were called during calibration (a RangeTable's `statistics`, any collection of names), None if not known yet.
    macs: `count_macs`. min_channels: layers with fewer input or output channels stay in float. Raises RecipeError for a
    pattern that matches no layer.
    """
    names = layer_names(network)
    check_patterns(keep_float, [alias for aliases in names.values() for alias in aliases])
    plan = []
    for name, aliases in names.items():
        layer = network.get_submodule(name)
        reason = reason_for_float(layer, owner_of(network, name), name.rpartition(".")[2]) or reason_too_narrow(
            layer, min_channels
        )
        kept = [pattern for pattern in keep_float if any(covers(pattern, alias) for alias in aliases)]
        if kept:
            reason = f"kept in float by the pattern {kept[0]!r}"
        elif not reason and statistics is not None and name not in statistics:
            reason = "never called during calibration"
        plan.append(LayerPlan(name, type(layer).__name__, not reason, reason, (macs or {}).get(name)))
    return tuple(plan)


def leave_out(plan: Sequence[LayerPlan], reasons: Mapping[str, str]) -> tuple[LayerPlan, ...]:
    """The plan with more layers left in float: `reasons` by name, such as what a backend cannot express."""
    return tuple(
        dataclasses.replace(item, quantized=False, reason=reasons[item.name])
        if item.quantized and item.name in reasons
        else item
        for item in plan
    )


def float_by_method(network: nn.Module) -> dict[str, int]:
    """What the method keeps in float, counted by class: activations, normalisation, and the attention products."""
    planned = set(layer_names(network))
    leaves = [
        type(module).__name__
        for name, module in network.named_modules()
        if name not in planned and not any(module.children()) and not isinstance(module, nn.Identity | nn.Dropout)
    ]
    attention = sum(all(hasattr(module, key) for key in ("to_q", "to_k", "to_v")) for module in network.modules())
    found = dict(sorted(Counter(leaves).items()))
    return {**found, ATTENTION: attention} if attention else found


def layer_names(network: nn.Module) -> dict[str, list[str]]:
    """Every layer with a weight of two dimensions or more of its own: its first name, and all its names."""
    names: dict[int, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if isinstance(module, QUANTIZABLE) or (name and any(tensor.dim() >= 2 for tensor in own)):
            names.setdefault(id(module), []).append(name)
    return {aliases[0]: aliases for aliases in names.values()}


def owner_of(network: nn.Module, name: str) -> nn.Module:
    """The module that holds the layer `name`."""
    return network.get_submodule(name.rpartition(".")[0])


def reason_for_float(layer: nn.Module, owner: nn.Module, attribute: str) -> str:
    """Why `layer`, `owner`'s `attribute`, cannot be quantized, "" if it can."""
    kind = type(layer).__name__
    base = next((supported for supported in QUANTIZABLE if isinstance(layer, supported)), None)
    if layer is owner:
        return "the network is this one layer: there is nothing to rewrite around it"
    if base is None:
        return f"{kind} has no INT8 form here"
    if type(layer) is not base and not inherits_forward(type(layer), base):
        return f"{kind} computes something of its own, not what {base.__name__} does: fuse or unload adapters first"
    if isinstance(owner, nn.MultiheadAttention):
        return "its weight is read by MultiheadAttention directly: the layer itself is never called"
    for part in (owner, getattr(owner, "processor", None)):
        if reads_weight(type(part), attribute):
            return f"its weight is read by {type(part).__name__} directly"
    if "forward" in vars(layer) or layer._forward_hooks or layer._forward_pre_hooks:
        return "it has hooks or a forward of its own (weight norm, offloading, adapters): remove them first"
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        return f"padding_mode {layer.padding_mode!r}: only zero padding is exact in INT8"
    return ""


@cache
def reads_weight(kind: type, attribute: str) -> bool:
    """Whether the forward of a module's class, or the call of an attention processor's, reads `self.attribute.weight`
    or `attn.attribute.weight` itself (for its type, or to multiply by it)."""
    for method in (getattr(kind, "forward", kind), kind.__call__):
        try:
            source = inspect.getsource(method)
        except (OSError, TypeError):  # no Python source
            continue
        if re.search(rf"\b(self|attn)\.{re.escape(attribute)}\.weight\b", source):
            return True
    return False


def reason_too_narrow(layer: nn.Module, min_channels: int) -> str:
    """Why a layer is too narrow to be worth rounding, "" if it is not."""
    ends = ("in_features", "out_features") if isinstance(layer, nn.Linear) else ("in_channels", "out_channels")
    narrowest = min(int(getattr(layer, end)) for end in ends)
    if narrowest >= min_channels:
        return ""
    return f"only {narrowest} channels (min_channels = {min_channels}): rounding costs much there and gains nothing"


def inherits_forward(kind: type, base: type) -> bool:
    """Whether a subclass computes exactly what its base does."""
    return all(getattr(kind, part, None) is getattr(base, part, None) for part in ("forward", "_conv_forward"))


def covers(pattern: str, name: str) -> bool:
    """Whether `pattern` matches the layer `name` or a block that it lies in."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: end + 1]), pattern) for end in range(len(parts)))


def planned(plan: Sequence[LayerPlan]) -> list[str]:
    """The names of the layers that a plan quantizes."""
    return [layer.name for layer in plan if layer.quantized]


def patterns_of(networks: Mapping[str, nn.Module], patterns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """For each of several networks the patterns that match layers in it; a pattern may start with a network's name.

    Raises RecipeError for a pattern that matches no layer of any.
    """
    names = {name: [alias for aliases in layer_names(network).values() for alias in aliases]
             for name, network in networks.items()}  # fmt: skip
    check_patterns(patterns, [alias for aliases in names.values() for alias in aliases]
                   + [f"{name}.{alias}" for name, aliases in names.items() for alias in aliases])  # fmt: skip
    own = {name: [pattern.removeprefix(f"{name}.") for pattern in patterns] for name in networks}
    return {
        name: tuple(pattern for pattern in own[name] if any(covers(pattern, alias) for alias in aliases))
        for name, aliases in names.items()
    }


def check_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    """Raise RecipeError at a pattern that matches no layer: most likely a typing mistake."""
    for pattern in patterns:
        if not any(covers(pattern, name) for name in names):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or list(names[:3])
            raise RecipeError(f"keep_float pattern {pattern!r} matches no layer: did you mean {' or '.join(near)}?")
