"""Layers whose input follows the time-step and not the picture: embeddings of t, modulations made of them.

A calibration picture is looked at once, at its drawn time-step. For these layers that would leave out every time-step
that is not drawn, although there the input is known: it is the same for every picture. So what entered them in the
first run, which walks through the whole time axis, is counted too.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ptq4dm.pipelines.denoiser import Call, layer_input
from ptq4dm.pipelines.denoisers import Run
from ptq4dm.ranges.observe import Observer, evaluating

TOLERANCE = 1e-4
"""How far two inputs that are the same may be apart by rounding, of the largest value."""


def layers_of_time(network: nn.Module, first: Call, last: Call, layers: Sequence[str]) -> tuple[str, ...]:
    """Those of `layers` whose input changes with the time-step, but not with the picture.

    first, last: calls at two time-steps of one run. Tensors of two dimensions or more that differ between them are
    the picture and what is made of it (the residuals of a ControlNet); the rest of what differs is the time-step. The
    network is called on both, and on the first time-step with the last picture. () where the pictures differ in shape.
    """
    both = mixed(first, last)
    if both is None or not layers:
        return ()
    at_first, at_both, at_last = (inputs_of(network, call, layers) for call in (first, both, last))
    return tuple(
        name
        for name in layers
        if same(at_first[name], at_both[name]) and not same(at_both[name], at_last[name]) and at_first[name]
    )


def mixed(first: Call, last: Call) -> Call | None:
    """The first call with the picture of the last; None if that is of another shape, or nothing differs."""
    own, spec = pytree.tree_flatten((first.args, first.kwargs))
    others, other_spec = pytree.tree_flatten((last.args, last.kwargs))
    if spec != other_spec or any(shape_of(a) != shape_of(b) for a, b in zip(own, others, strict=True)):
        return None
    leaves = [b if is_picture(a) else a for a, b in zip(own, others, strict=True)]
    if all(new is old or torch.equal(new, old) for new, old in zip(leaves, own, strict=True)):
        return None
    return Call(*pytree.tree_unflatten(leaves, spec))


def is_picture(leaf: Any) -> bool:
    """Whether an argument may be made of a picture: floats, in two dimensions or more."""
    return isinstance(leaf, Tensor) and leaf.dim() > 1 and leaf.is_floating_point()


def shape_of(leaf: Any) -> tuple[int, ...] | None:
    """The shape of a tensor, None for anything else."""
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else None


@torch.no_grad()
def inputs_of(network: nn.Module, call: Call, layers: Sequence[str]) -> dict[str, list[Tensor]]:
    """What enters each layer in one call of the network."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(rows: list[Tensor]) -> Callable[..., None]:
        return lambda module, args, kwargs: rows.append(layer_input(args, kwargs).detach().clone())

    handles = [
        network.get_submodule(name).register_forward_pre_hook(keep(found[name]), with_kwargs=True) for name in layers
    ]
    try:
        with evaluating(network):
            network(*call.args, **call.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether tensors are the same but for rounding."""
    if [item.shape for item in some] != [item.shape for item in others]:
        return False
    return all(
        float((a.float() - b.float()).abs().max()) <= TOLERANCE * float(a.float().abs().max())
        for a, b in zip(some, others, strict=True)
    )


def count_everywhere(network: nn.Module, layers: Sequence[str], run: Run, name: str, observer: Observer) -> None:
    """Count what entered `layers` of the denoiser `name` at every visit of the first run."""
    recorded: Mapping[str, Sequence[tuple[int, Tensor]]] = run.inputs.get(name, {})
    for layer in layers:
        for visit, x in recorded[layer]:
            observer.timesteps = torch.tensor([run.visits[visit].timestep], dtype=torch.float64)
            observer.chosen = None
            observer.watch(layer, network.get_submodule(layer), (x,), {})
