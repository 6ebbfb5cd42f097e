"""Fold smoothing factors into the norm or linear layer in front: who is in front is seen by watching one call.

A layer takes in what a norm puts out where it is the very same tensor. Whether something else takes it in as well is
tried: with every candidate's output divided by the factors, and its layers' inputs multiplied by them, the network must
answer as before. So no structure is assumed, and what is not certain is left to the layers themselves.
"""

import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from diffusers.models.normalization import FP32LayerNorm, RMSNorm
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ptq4dm.pipelines.denoiser import Call, layer_input
from ptq4dm.quantization.layers import QuantizedLinear
from ptq4dm.ranges.observe import evaluating

TAKING: Final = (nn.LayerNorm, FP32LayerNorm, nn.GroupNorm, nn.RMSNorm, RMSNorm, nn.Linear)
"""Layers whose output is divided by dividing their weight and bias; other classes may compute something else."""
ROUNDING: Final = 1e-4
"""Relative L2 that a network's answer may move by float32 rounding when a factor is taken out and put in again."""

Folds = Mapping[str, tuple[str, ...]]
"""By the name of the layer in front: the layers behind it."""


def producers_of(network: nn.Module, consumers: Collection[str], call: Call) -> dict[str, tuple[str, ...]]:
    """Those norms (with weights) and linear layers whose output some of `consumers` take in, seen in one call.

    A consumer counts only where each of its inputs came from the same one.
    """
    modules = dict(network.named_modules())
    born: dict[int, tuple[weakref.ref[Tensor], str]] = {}
    seen: dict[str, set[str | None]] = defaultdict(set)

    def put_out(name: str) -> Callable[..., None]:
        def note(layer: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                born[id(output)] = (weakref.ref(output), name)

        return note

    def take_in(name: str) -> Callable[..., None]:
        def note(layer: nn.Module, args: Sequence[Tensor], kwargs: dict[str, Tensor]) -> None:
            x = layer_input(args, kwargs)
            found, producer = born.get(id(x), (None, None))
            seen[name].add(producer if found is not None and found() is x else None)

        return note

    handles = [layer.register_forward_hook(put_out(name)) for name, layer in can_take_factors(network).items()]
    handles += [modules[name].register_forward_pre_hook(take_in(name), with_kwargs=True) for name in consumers]
    try:
        answer_of(network, call)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[str, tuple[str, ...]] = {}
    for name in consumers:
        (producer, *others) = seen.get(name) or {None}
        if producer is not None and not others:
            found[producer] = (*found.get(producer, ()), name)
    return found


def can_take_factors(network: nn.Module) -> dict[str, nn.Module]:
    """The layers whose output can be divided channel by channel by changing their own tensors, which no other has."""
    owners = Counter(id(tensor) for module in network.modules() for tensor in module.parameters(recurse=False))
    return {
        name: module
        for name, module in network.named_modules()
        if type(module) in TAKING
        and isinstance(weight := module._parameters.get("weight"), Tensor)
        and (isinstance(module, nn.Linear) or weight.dim() == 1)
        and not ("forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks)
        and all(owners[id(tensor)] == 1 for tensor in module.parameters(recurse=False))
    }


def proven(network: nn.Module, folds: Folds, factors: Mapping[str, Tensor], call: Call) -> dict[str, tuple[str, ...]]:
    """Those of `folds` that leave the network's answer to `call` as it is: tried together, then by halves."""
    if not folds:
        return {}
    wanted = answer_of(network, call)

    def holding(some: list[str]) -> list[str]:
        with as_if_folded(network, {producer: folds[producer] for producer in some}, factors):
            if same(answer_of(network, call), wanted):
                return some
        half = len(some) // 2
        return [] if not half else holding(some[:half]) + holding(some[half:])

    return {producer: folds[producer] for producer in holding(list(folds))}


@contextmanager
def as_if_folded(network: nn.Module, folds: Folds, factors: Mapping[str, Tensor]) -> Iterator[None]:
    """While open, outputs of the layers in front are divided and inputs of those behind multiplied by the factors."""
    handles = []

    def divide(values: Tensor) -> Callable[..., Any]:
        return lambda layer, args, output: output / on_channels(values, layer, output)

    def multiply(values: Tensor) -> Callable[..., Any]:
        def changed(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            if args:
                return (args[0] * on_channels(values, layer, args[0]), *args[1:]), kwargs
            return args, {**kwargs, "input": kwargs["input"] * on_channels(values, layer, kwargs["input"])}

        return changed

    try:
        for producer, consumers in folds.items():
            hook = divide(factors[consumers[0]])
            handles.append(network.get_submodule(producer).register_forward_hook(hook))
            for name in consumers:
                layer = network.get_submodule(name)
                handles.append(layer.register_forward_pre_hook(multiply(factors[name]), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def on_channels(values: Tensor, layer: nn.Module, x: Tensor) -> Tensor:
    """(channels,) in the shape that broadcasts on the channels of what `layer` takes in or puts out."""
    last = isinstance(layer, nn.Linear | nn.LayerNorm | nn.RMSNorm | RMSNorm)
    return values.to(x.device, x.dtype).view(-1, *[1] * (0 if last else x.dim() - 2))


@torch.no_grad()
def answer_of(network: nn.Module, call: Call) -> list[Tensor]:
    """The tensors of a network's answer."""
    with evaluating(network):
        leaves, _ = pytree.tree_flatten(network(*call.args, **call.kwargs))
    return [leaf.float() for leaf in leaves if isinstance(leaf, Tensor)]


def same(found: list[Tensor], wanted: list[Tensor]) -> bool:
    """Whether two answers differ by no more than float32 rounding."""
    pairs = zip(found, wanted, strict=True)
    return all(float((one - other).norm()) <= ROUNDING * float(other.norm()) for one, other in pairs)


@torch.no_grad()
def fold(quantized: nn.Module, folds: Folds, factors: Mapping[str, Tensor]) -> None:
    """Divide the layers in front, in a quantized network of our own; the layers behind divide no more.

    factors: by layer in front.
    """
    for producer, consumers in folds.items():
        divide_output(quantized.get_submodule(producer), factors[producer])
        for name in consumers:
            vars(quantized.get_submodule(name))["_buffers"]["smoothing"] = None


def divide_output(layer: nn.Module, factors: Tensor) -> None:
    """Divide what a layer puts out, channel by channel, by changing its tensors."""
    bias = getattr(layer, "bias", None)
    weight = layer.weight_scale if isinstance(layer, QuantizedLinear) else layer.weight
    assert isinstance(weight, Tensor)
    weight /= factors.to(weight.device, weight.dtype).view(-1, *[1] * (weight.dim() - 1))
    if isinstance(bias, Tensor):
        bias /= factors.to(bias.device, bias.dtype)
