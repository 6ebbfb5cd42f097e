"""What the weights of a layer are multiplied with: means and second moments of whole windows of its rounded input.

Rounding weights with error feedback needs to know which inputs come together: for a convolution the (in, *kernel)
values of a window. All windows of a calibration set would be too many; of each call some are drawn at random, so that
memory and time are bounded whatever the number of samples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptq4dm.calibration.calls import evenly_spread
from ptq4dm.pipelines.denoiser import Call, layer_input
from ptq4dm.progress import progress
from ptq4dm.quantization.layers import QuantizedConv, QuantizedLayer, QuantizedLinear
from ptq4dm.quantization.weight_only import WeightOnlyConv, WeightOnlyLayer, WeightOnlyLinear
from ptq4dm.ranges.observe import evaluating

WINDOWS = 16384
"""Windows drawn of a layer's input, over all calls."""
PER_INPUT = 16
"""Of a wide layer more are drawn: so many for each of its inputs to an output."""
CALLS = 32
"""Calls that they are drawn from, evenly spread over those given."""
WIDEST = 4608
"""Layers of more inputs to an output than this are left out: their matrix would take too long to factorise."""
AT_ONCE = 1 << 27
"""Entries of all matrices collected in one pass over the calls (0.5 GiB in float32)."""
STRIP = 256
"""Rows of a matrix that are added to at once, from its diagonal on: the rest mirrors them."""

Rounded = QuantizedLayer | WeightOnlyLayer
"""Layers with integers for weights."""


@dataclass
class InputMoments:
    """Sums over windows of a layer's input: u in integers less the zero point, v the same before rounding.

    count: windows. rounded, real: (K,) float64 sums of u and v. products: (K, K) float64 sum of u uᵀ. K counts
    (in, *kernel). While windows are still added, products is float32 and holds the rows of each strip from its diagonal
    on: integers add up exactly as far as they matter, in half the memory and half the time.
    """

    count: int
    rounded: Tensor
    real: Tensor
    products: Tensor

    def add(self, rounded: Tensor, real: Tensor) -> None:
        """Count windows (n, K) in float32."""
        self.count += len(rounded)
        self.rounded += rounded.sum(0, dtype=torch.float64)
        self.real += real.sum(0, dtype=torch.float64)
        for start in range(0, len(self.products), STRIP):
            strip = self.products[start : start + STRIP, start:]
            strip.addmm_(rounded[:, start : start + STRIP].T, rounded[:, start:])

    def complete(self) -> "InputMoments":
        """The same with the whole of products, in float64."""
        upper = self.products.double().triu()
        return replace(self, products=upper + upper.triu(1).T)


def no_windows(width: int) -> InputMoments:
    """Moments of nothing yet."""
    rounded, real = torch.zeros(2, width, dtype=torch.float64)
    return InputMoments(0, rounded, real, torch.zeros(width, width))


def input_moments(
    network: nn.Module, layers: Mapping[str, Rounded], calls: Sequence[Call], shown: bool = False
) -> Iterator[tuple[str, InputMoments]]:
    """Name and moments of each of `layers` that `has_windows` and is called; a few layers are held at a time.

    network: the float network, whose inputs are rounded as `layers` do. The draw is seeded.
    """
    for _, name, moments in moments_of_sets(network, [layers], calls, shown):
        yield name, moments


@torch.no_grad()
def moments_of_sets(
    network: nn.Module, sets: Sequence[Mapping[str, Rounded]], calls: Sequence[Call], shown: bool = False
) -> Iterator[tuple[int, str, InputMoments]]:
    """`input_moments` of several sets of layers, each as if it were alone, in as many passes over the calls as the
    largest of them needs; with the place of the set in `sets`. The progress bar counts calls, and each layer when the
    next is asked for: what is done with one takes the longest."""
    watched = [{name: layer for name, layer in layers.items() if has_windows(layer)} for layers in sets]
    taken = evenly_spread(calls, CALLS)
    groups = [in_groups({name: layer.weight[0].numel() ** 2 for name, layer in own.items()}) for own in watched]
    passes = max(map(len, groups), default=0)
    with progress("error feedback", passes * len(taken) + sum(map(len, watched)), shown) as advance:
        for index in range(passes):
            with ExitStack() as stack:
                found = {
                    place: stack.enter_context(collecting(network, {name: own[name] for name in names}, len(taken)))
                    for place, (own, parts) in enumerate(zip(watched, groups, strict=True))
                    for names in parts[index : index + 1]
                }
                for call in taken:
                    network(*call.args, **call.kwargs)
                    advance(1)
            for place, collected in found.items():
                while collected:
                    name, moments = collected.popitem()
                    yield place, name, moments.complete()
                    advance(1)


@contextmanager
def collecting(network: nn.Module, layers: Mapping[str, Rounded], calls: int) -> Iterator[dict[str, InputMoments]]:
    """While open, for `calls` calls, windows of each input of the network's layers are added up, as many of each call
    (all, if there are fewer)."""
    found: dict[str, InputMoments] = {}
    generator = torch.Generator().manual_seed(0)

    def hook(name: str, layer: Rounded) -> Callable[..., None]:
        def watch(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
            x = layer_input(args, kwargs).float()
            real, rounded = windows(x / layer.input_step(), layer), windows(layer.centred_input(x), layer)
            places = real.shape[: real.dim() - layer.weight.dim() + 1]
            width = layer.weight[0].numel()
            drawn = torch.randperm(places.numel(), generator=generator)[: windows_wanted(width) // calls]
            where = torch.unravel_index(drawn, places)
            moments = found.setdefault(name, no_windows(width))
            moments.add(rounded[where].flatten(1).cpu(), real[where].flatten(1).cpu())

        return watch

    handles = [
        network.get_submodule(name).register_forward_pre_hook(hook(name, layer), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        with evaluating(network):
            yield found
    finally:
        for handle in handles:
            handle.remove()


def windows_wanted(width: int) -> int:
    """How many windows to draw of the input of a layer with so many inputs to an output."""
    return max(WINDOWS, PER_INPUT * width)


def has_windows(layer: Rounded) -> bool:
    """Whether each output of a layer is made of one window of all its input channels, which is not too large."""
    if isinstance(layer, QuantizedConv | WeightOnlyConv):
        plain = layer.groups == 1 and not isinstance(layer.padding, str)
    else:
        plain = isinstance(layer, QuantizedLinear | WeightOnlyLinear)
    return plain and layer.weight[0].numel() <= WIDEST


def windows(x: Tensor, layer: Rounded) -> Tensor:
    """The windows of `x` as a view: (batch, *positions, in, *kernel), or (..., in) for a linear layer. Channels lie
    side by side in memory, which makes single windows fast to take."""
    if not isinstance(layer, QuantizedConv | WeightOnlyConv):
        return x
    assert not isinstance(layer.padding, str)  # has_windows
    x = F.pad(x, [side for width in reversed(layer.padding) for side in (width, width)])
    x = x.movedim(1, -1).contiguous()
    for axis, (taps, stride, gap) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), 1):
        x = x.unfold(axis, gap * (taps - 1) + 1, stride)[..., ::gap]
    return x


def in_groups(sizes: Mapping[str, int]) -> list[list[str]]:
    """The names in turn, in groups whose sizes add up to `AT_ONCE` at most (a larger one stands alone)."""
    groups: list[list[str]] = []
    filled = AT_ONCE + 1
    for name, size in sizes.items():
        if filled + size > AT_ONCE:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups
