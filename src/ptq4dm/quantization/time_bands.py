"""Time-step-dependent scales: which band of time-steps a call is in, by the value of t, never by counting calls.

A network with bands has one `TimeBands`: a hook in front of its calls that reads the time-step, and that its layers
ask. A banded layer holds a table of input scales and zero points, one a band; everything else of it is as ever, so the
limit on pairs of weights, the corrected bias and the smoothing hold for every band.
"""

import inspect
import itertools
import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ptq4dm.errors import ArtifactError, BackendError, ModelError
from ptq4dm.pipelines.denoiser import given
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.ranges.search import InputRange


class TimeBands:
    """A hook before the calls of a network, which notes the band of their time-step: of one t, or of one a sample.

    argument: the network's argument that holds t; place: of it in a call. cuts: rising, K - 1 of them for K bands; t is
    in the band `number of cuts <= t`. index: () or (samples,) int64, set by the call in progress.
    """

    def __init__(self, argument: str, place: int, cuts: Sequence[float]):
        self.argument, self.place, self.cuts = argument, place, tuple(float(cut) for cut in cuts)
        self.index = torch.zeros((), dtype=torch.int64)

    def __call__(self, network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note the band of a call. Raises ModelError for a call without a time-step, or with one a pixel."""
        self.index = self.bands_of(network, args, kwargs)

    def bands_of(self, network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """The band of a call's time-step, () or (samples,)."""
        t = given(args, kwargs, self.place, self.argument)
        if not isinstance(t, Tensor) and isinstance(t, numbers.Real):
            t = torch.tensor(float(t), dtype=torch.float64)
        if not isinstance(t, Tensor) or t.dim() > 1:
            what = f"of shape {tuple(t.shape)}" if isinstance(t, Tensor) else f"= {t!r}"
            raise ModelError(
                f"{type(network).__name__} has scales that depend on the time-step and was called with {self.argument} "
                f"{what}: give one number, or one a sample"
            )
        t = t.detach().double()
        index = torch.zeros_like(t, dtype=torch.int64)
        for cut in self.cuts:  # compared where t is, with numbers: nothing is copied from or to the host
            index = index + (t >= cut)
        return index

    def index_on(self, device: torch.device) -> Tensor:
        """`index` on a device, copied there once a call: () or (samples,)."""
        if self.index.device != device:
            self.index = self.index.to(device)
        return self.index

    def pick(self, table: Tensor, x: Tensor | None = None) -> Tensor:
        """The entry of a layer's table (K,) for the call in progress: (), or one a sample in a shape that broadcasts
        against `x`, whose first axis holds the samples, each as often as the network repeats it. Raises ModelError."""
        index = self.index_on(table.device)
        if index.dim() == 0 or not len(index):
            return table[index] if index.dim() == 0 else table[0]  # no samples, no numbers to round
        assert x is not None  # an engine sets one band before it asks
        if len(x) % len(index):
            raise ModelError(
                f"{len(index)} time-steps for a layer's input of shape {tuple(x.shape)}: this network does not keep "
                "samples along the first axis, so it takes one time-step a call where scales depend on it"
            )
        return table[index.repeat_interleave(len(x) // len(index))].view(-1, *[1] * (x.dim() - 1))


def bands_of(network: nn.Module) -> TimeBands | None:
    """The bands of a network; None if its scales do not depend on the time-step."""
    return next((hook for hook in network._forward_pre_hooks.values() if isinstance(hook, TimeBands)), None)


@contextmanager
def at_band(bands: TimeBands, band: int) -> Iterator[None]:
    """While open, the layers are those of one band."""
    before, bands.index = bands.index, torch.tensor(band)
    try:
        yield
    finally:
        bands.index = before


def each_band(network: nn.Module) -> Iterator[int]:
    """Go through the bands of a network, its layers each time those of that band; once if it has none."""
    bands = bands_of(network)
    if bands is None:
        yield 0
        return
    for band in range(len(bands.cuts) + 1):
        with at_band(bands, band):
            yield band


def put_bands(network: nn.Module, argument: str, cuts: Sequence[float], layers: Sequence[str]) -> TimeBands:
    """Give a network of our own bands, and its named layers tables of ones for them, to be filled.

    Raises ModelError if it has no such argument, or a layer that has no input scale.
    """
    names = list(inspect.signature(network.forward).parameters)
    if argument not in names:
        raise ModelError(f"{type(network).__name__}.forward has no argument {argument!r} that could be the time-step")
    bands = TimeBands(argument, names.index(argument), cuts)
    modules = dict(network.named_modules())
    for name in layers:
        layer = modules.get(name)
        if not isinstance(layer, QuantizedLayer):
            raise ModelError(f"{type(network).__name__} has no quantized layer {name!r} for bands of time-steps")
        device = layer.weight.device
        layer.input_scale = torch.ones(len(cuts) + 1, device=device)
        layer.input_zero_point = torch.zeros(len(cuts) + 1, dtype=torch.uint8, device=device)
        layer.bands = bands
    network.register_forward_pre_hook(bands, with_kwargs=True)
    return bands


def set_bands(
    network: nn.Module, argument: str, cuts: Sequence[float], ranges: Mapping[str, Sequence[InputRange]]
) -> None:
    """Give the layers of a network of our own, by name, a range for each band."""
    put_bands(network, argument, cuts, list(ranges))
    for name, chosen in ranges.items():
        layer = network.get_submodule(name)
        assert isinstance(layer, QuantizedLayer)
        layer.input_scale.copy_(torch.tensor([item.scale for item in chosen]))
        layer.input_zero_point.copy_(torch.tensor([item.zero_point for item in chosen]))


def bands_entry(network: nn.Module) -> dict[str, Any]:
    """What an artifact says of a network's bands, to be merged into what it says of the layers; {} without any."""
    bands = bands_of(network)
    if bands is None:
        return {}
    layers = {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}
    names = [name for name, layer in layers.items() if layer.bands is not None]
    return {"time_bands": {"argument": bands.argument, "cuts": list(bands.cuts), "layers": names}}


def restore_bands(network: nn.Module, entry: Any, where: Any) -> None:
    """Undo `bands_entry` on empty layers; nothing for None. Raises ArtifactError that names `where`."""
    if entry is None:
        return
    try:
        argument, cuts, layers = entry["argument"], [float(cut) for cut in entry["cuts"]], list(entry["layers"])
        rising = all(one < other for one, other in itertools.pairwise(cuts))
        if not rising or not all(map(math.isfinite, cuts)) or not cuts:
            raise ValueError(f"cuts {cuts} should rise")
        put_bands(network, argument, cuts, layers)
    except (KeyError, TypeError, ValueError, ModelError) as error:
        raise ArtifactError(f"{where}: its bands of time-steps are damaged ({error}): quantize again") from error


def refuse_bands(network: nn.Module, what: str) -> None:
    """Raise BackendError if scales of a network depend on the time-step, which `what` cannot express."""
    if bands_of(network) is not None:
        raise BackendError(
            f"{what} holds one scale for each layer, and this network has time-step-dependent ones: use "
            "backend='openvino' or 'simulated', or quantize with [activations] time_bands = 1"
        )


def bands_words(found: Mapping[str, Any]) -> str:
    """What the facts of a denoiser say of its bands of time-steps."""
    cuts = ", ".join(f"{cut:g}" for cut in found["cuts"])
    loss = found["loss"][len(found["cuts"])]
    return (
        f"{found['layers']} layers with {len(found['cuts']) + 1} scales each, by {found['argument']}, cut at {cuts}: "
        f"their rounding error is {100 * loss:.3g} % of that with one scale"
    )
