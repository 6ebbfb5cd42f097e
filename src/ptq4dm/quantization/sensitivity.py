"""Which layers' rounding harms the network's output most, and which of them cost little in float.

The errors of layers add up as independent ones, so the squared error that a layer makes when it alone is quantized is
its share of the whole. The shares are very unequal: the shortcuts of the last block carry x_t almost straight to the
output, and at high t, where the network's answer is nearly x_t, two of them made 77 % of the error of `emoji-32` for
2 % of the multiply-adds.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ptq4dm.errors import ModelError
from ptq4dm.pipelines.denoiser import Call, layer_input
from ptq4dm.pipelines.forwards import replaced_forward
from ptq4dm.progress import progress
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.recorded import recording
from ptq4dm.ranges.observe import evaluating

CALLS = 2
"""How many of the calibration calls the error is measured on."""
WORTH = 0.005
"""The least share of the error for which a layer stays in float."""
FEW = 0.004
"""Of all weights, those that sensitive layers may hold in float16 instead of 8 bits."""


@torch.no_grad()
def error_shares(
    network: nn.Module, layers: Mapping[str, QuantizedLayer], calls: Sequence[Call], shown: bool = False
) -> dict[str, float]:
    """Each layer's share of the squared error of the output: that of the network in which it alone is quantized over
    that of the network with all `layers`, averaged over samples (so that every time-step counts alike).

    network: the float network. calls: `CALLS` of them are taken, the first and the middle one. Where one layer alone is
    quantized, those called before it answer as in the float network, and are not run again.
    """
    taken = taken_of(calls)
    shares = dict.fromkeys(layers, 0.0)
    rows = 0
    with progress("sensitivity", len(taken) * len(layers), shown) as advance:
        for call in taken:
            with recording(network, list(layers)) as recorded:
                expected = outputs(network, call)
            with instead(network, layers):
                whole = squared_errors(outputs(network, call), expected)
            counted = whole > 0
            rows += int(counted.sum())
            for name, layer in layers.items():
                with instead(network, {**recorded.before(name), name: layer}):
                    alone = squared_errors(outputs(network, call), expected)
                shares[name] += float((alone[counted] / whole[counted]).sum())
                advance(1)
    return {name: value / max(rows, 1) for name, value in shares.items()}


def taken_of(calls: Sequence[Call]) -> Sequence[Call]:
    """The calls that the error is measured on: the first and the middle one."""
    return calls[:: max(1, len(calls) // CALLS)][:CALLS]


def best_in_float(shares: Mapping[str, float], macs: Mapping[str, int], budget: float) -> dict[str, str]:
    """The layers to leave in float, with the reason: those with the most error for their multiply-adds, of which each
    makes at least `WORTH` of it and a larger share than of the multiply-adds, as long as all together stay within
    `budget` of these.

    macs: of every layer of the network, by name.
    """
    total, spent = sum(macs.values()), 0.0
    chosen = {}
    for name in sorted(shares, key=lambda name: -shares[name] / max(macs.get(name, 0), 1)):
        cost = macs.get(name, 0) / max(total, 1)
        if shares[name] < max(WORTH, cost) or spent + cost > budget:
            continue
        spent += cost
        chosen[name] = (
            f"sensitive: rounding it makes {shares[name]:.1%} of the output's squared error, for {cost:.1%} of the "
            "multiply-adds"
        )
    return chosen


def best_in_half(shares: Mapping[str, float], sizes: Mapping[str, int], total: int) -> set[str]:
    """Of the layers left in float those to hold in float16, not in 8 bits: the most error for their weights first, as
    long as together they hold no more than `FEW` of all.

    What rounded weights get wrong is the same at every step, so it adds up: the shortcut of the last block of
    `emoji-32`, 0.1 % of the weights, in 8 bits made about a third of what all rounded weights do to a picture. The
    share of a call's error, inputs rounded too, only stands for that.

    sizes: weights by layer that has such a form, each of which has a share. total: weights of the network.
    """
    spent, chosen = 0, set()
    for name in sorted(sizes, key=lambda name: -shares[name] / max(sizes[name], 1)):
        if spent + sizes[name] <= FEW * total:
            spent += sizes[name]
            chosen.add(name)
    return chosen


@contextmanager
def instead(network: nn.Module, layers: Mapping[str, Callable[[Tensor], Tensor]]) -> Any:
    """While open, each of `layers` answers in place of the network's layer of that name, which itself is not run."""

    def answer(layer: Callable[[Tensor], Tensor]) -> Any:
        return lambda *args, **kwargs: layer(layer_input(args, kwargs))

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(replaced_forward(network.get_submodule(name), answer(layer)))
        yield


def outputs(network: nn.Module, call: Call) -> list[Tensor]:
    """The float tensors of the network's answer. Raises ModelError if there are none."""
    with evaluating(network):
        leaves = pytree.tree_leaves(network(*call.args, **call.kwargs))
    found = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not found:
        kinds = ", ".join(sorted({type(leaf).__name__ for leaf in leaves})) or "nothing"
        raise ModelError(
            f"{type(network).__name__} returns {kinds}: the error of its layers is measured on float tensors; return "
            "them, in a tuple or a dict if need be, or set float_share = 0.0 in the recipe"
        )
    return found


def squared_errors(got: Sequence[Tensor], expected: Sequence[Tensor]) -> Tensor:
    """The squared error of every row of every tensor, float64, joined."""
    return torch.cat(
        [
            (a.double() - b.double()).square().reshape(len(a) if a.dim() else 1, -1).sum(1)
            for a, b in zip(got, expected, strict=True)
        ]
    )
