"""Never slower: which layers of a network run in INT8, measured once for each GPU and shape.

A layer competes with itself in float: its INT8 weights dequantized and held once in the type of its input, inputs
unrounded, channels last. It is timed for every tile that fits; the fastest is kept for the kernel and timed in turns
with float, which stays unless INT8 gains more than noise. What time is, is a
function that is passed in; measured times are kept (`timings`), so a second run of a network measures nothing.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from triton.runtime.errors import OutOfResources

from ptq4dm.backends.triton_gpu.blocks import TWICE, rounded_in_front, upsampled_by_index
from ptq4dm.backends.triton_gpu.kernels.launching import (
    MEASURED,
    Settings,
    fitting_settings,
    forced,
    largest_that_fills,
    multiprocessors,
    numbered,
    shared_memory,
    sums_a_thread,
    with_splits,
)
from ptq4dm.backends.triton_gpu.layers import TritonConv, TritonLayer, channels_last, triton_form
from ptq4dm.backends.triton_gpu.prologue import Norm, Prologue, norms_of
from ptq4dm.backends.triton_gpu.rounded_gates import behind_gates
from ptq4dm.backends.triton_gpu.rounded_norms import behind_norms
from ptq4dm.backends.triton_gpu.timings import Timing, Timings
from ptq4dm.errors import BackendError
from ptq4dm.pipelines.denoiser import Call, layer_input
from ptq4dm.quantization.dequantized import float_form
from ptq4dm.quantization.layers import QuantizedLayer

Timer = Callable[[Callable[[int], Any], int], float]
"""(call, sets) -> seconds of one call; `call(i)` works on the i-th of `sets` sets of inputs."""
Fitting = Callable[[int, int, int, int], list[Settings]]
"""(rows, columns, channels, taps) -> the tiles to try, at least one."""
ROTATED_BYTES: Final = 128 << 20
"""How many bytes of inputs are rotated among, so that none is found in the cache (an H100's L2 holds 50 MiB). Inputs of
which `MOST_SETS` are fewer bytes stay there, as in the network, where the layer in front has just written them."""
MOST_SETS: Final = 16
MARGIN: Final = 0.03
"""By what share INT8 must be faster than float: less may be noise, and float rounds nothing."""
TURNS: Final = 3
"""How often the best tile and float are timed in turns; the median of each counts."""
AROUND: Final = (3, 7)
"""How many tiles larger and smaller than the default are tried (`fitting_on`)."""


@dataclass(frozen=True)
class Work:
    """What a layer is asked to do: the shape and type of its input; rounded: whether that comes in integers, from a
    normalisation or a gate in front, so that INT8 does not pay for rounding it; upsample: by how much it was enlarged
    before, which INT8 does by its index; norm: the normalisation that rounds, where one does, which is timed too."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    rounded: bool = False
    upsample: int = 1
    norm: Norm | None = None

    @property
    def given(self) -> tuple[int, ...]:
        """The shape of the input before it is enlarged."""
        return (
            (*self.shape[:2], *(size // self.upsample for size in self.shape[2:])) if self.upsample > 1 else self.shape
        )


@dataclass(frozen=True)
class LayerChoice:
    """How one quantized layer runs, and what was measured for it; None where nothing was.

    type: what runs; int8: whether that multiplies in INT8. Times are with the normalisation that rounds for the layer.
    """

    layer: str
    type: str
    int8: bool
    int8_ms: float | None = None
    float_ms: float | None = None
    tile: str = ""
    reason: str = ""


def choose(
    layers: Mapping[str, QuantizedLayer],
    works: Mapping[str, Work],
    timings: Timings,
    timer: Timer,
    fitting: Fitting,
    strict: bool,
    device: torch.device,
) -> tuple[dict[str, nn.Module], list[LayerChoice]]:
    """What to put in place of each quantized layer, and why.

    works: of each layer that was called. strict: INT8 for all, whatever is faster. Layers of the same shape are
    measured once, and again where a tile was kept that is not tried here. Sets `MEASURED`, where the kernels find
    their tiles.
    """
    forms: dict[str, nn.Module] = {}
    choices = []
    for name, layer in layers.items():
        form = triton_form(layer)
        kind = type(form).__name__
        if name not in works:
            forms[name] = form
            choices.append(LayerChoice(name, kind, True, reason="not called by the example"))
            continue
        work = works[name]
        key = key_of(form, work)
        if key not in timings or timings[key].tile not in fitting(*product_of(form, work)):
            timings[key] = measure(layer, form, work, timer, fitting, device)
        timing = timings[key]
        remember(form, work, timing.tile, device)
        faster = timing.int8_ms <= (1 - MARGIN) * timing.float_ms
        int8 = strict or faster
        why = "float is faster" if timing.float_ms < timing.int8_ms else f"INT8 gains less than {100 * MARGIN:.0f} %"
        reason = "" if faster else f"{why}; strict keeps INT8" if strict else why
        forms[name] = form if int8 else float_form(layer, work.dtype)
        kind = kind if int8 else type(forms[name]).__name__
        choices.append(LayerChoice(name, kind, int8, timing.int8_ms, timing.float_ms, timing.tile.name, reason))
    return forms, choices


@torch.no_grad()
def measure(
    layer: QuantizedLayer, form: TritonLayer, work: Work, timer: Timer, fitting: Fitting, device: torch.device
) -> Timing:
    """Time a layer in INT8 with every tile that fits, then with the best in turns with float, both behind the
    normalisation that rounds for INT8, where one does: once for all its readers.

    Raises BackendError where tiles give different numbers, or the device has room for none.
    """
    inputs = rotated_inputs(work, device)
    kernel, rival = form.to(device), float_form(layer, work.dtype).to(device)
    if isinstance(rival, nn.Conv2d):
        rival.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (torch's stub lacks it)
    laid = [channels_last(x) if isinstance(kernel, TritonConv) else x for x in inputs]
    ready = [kernel.integers(x) for x in laid] if work.rounded else laid
    in_front = None if work.norm is None else Prologue(work.norm, kernel, inputs[0])
    readers = 1 if work.norm is None else work.norm.readers

    def product(q: Tensor) -> Tensor:
        if isinstance(kernel, TritonConv):
            return kernel.product(q, work.dtype, upsample=work.upsample)
        return kernel.product(q, work.dtype)

    def run(index: int) -> Tensor:
        return product(kernel.integers(ready[index]))

    def in_int8(index: int) -> Tensor:
        q = kernel.integers(ready[index]) if in_front is None else in_front.integers(laid[index])
        return repeated(lambda: product(q), readers)

    def in_float(index: int) -> Tensor:
        x = inputs[index] if in_front is None else in_front.floats(inputs[index])
        x = F.interpolate(x, scale_factor=float(work.upsample)) if work.upsample > 1 else x
        return repeated(lambda: rival(x), readers)

    seconds: dict[Settings, float] = {}
    first: Tensor | None = None
    tried, refused = fitting(*product_of(form, work)), ""
    for tile in tried:
        with forced(tile):
            try:
                answer = run(0)
                seconds[tile] = timer(run, len(inputs))
            except OutOfResources as error:  # more shared memory than its operands take: the next tile is smaller
                refused = f"{tile.name} takes {error.required:,} of {error.name}, of which there are {error.limit:,}"
                continue
        first = answer if first is None else first
        if not torch.equal(answer, first):
            raise BackendError(
                f"the INT8 kernels are not exact here: with the tile {tile.name} a product of {tuple(work.shape)} is "
                f"another than with {next(iter(seconds)).name}. Use backend='simulated', and report it with the "
                "versions of torch, triton and the driver"
            )
    if not seconds:
        raise BackendError(
            f"a product of {tuple(work.shape)} by {form.weight.shape[0]} outputs runs with none of the {len(tried)} "
            f"tiles that were tried on {device}: {refused}. Keep that layer in float (keep_float), or use "
            "backend='simulated', and report it with the versions of torch, triton and the driver"
        )
    best = min(seconds, key=seconds.__getitem__)
    with forced(best):
        turns = [(timer(in_int8, len(inputs)), timer(in_float, len(inputs))) for _ in range(TURNS)]
    form.to(layer.weight.device)
    int8, floats = (1000 * statistics.median(times) / readers for times in zip(*turns))
    return Timing(int8, floats, best)


def repeated(call: Callable[[], Tensor], times: int) -> Tensor:
    """What the last of so many calls gives."""
    for _ in range(times - 1):
        call()
    return call()


def rotated_inputs(work: Work, device: torch.device) -> list[Tensor]:
    """Random inputs, channels last, together of ROTATED_BYTES, but no more than MOST_SETS."""
    one = max(1, torch.Size(work.given).numel() * work.dtype.itemsize)
    count = min(MOST_SETS, max(2, ROTATED_BYTES // one))
    generator = torch.Generator(device).manual_seed(0)
    drawn = (torch.randn(work.given, generator=generator, device=device).to(work.dtype) for _ in range(count))
    return [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in drawn]


def remember(form: TritonLayer, work: Work, tile: Settings, device: torch.device) -> None:
    """Let the kernels take that tile for this product on this device from now on."""
    MEASURED.setdefault((numbered(device), *form.product_kind), {})[product_of(form, work)[0]] = tile


def product_of(form: TritonLayer, work: Work) -> tuple[int, int, int, int]:
    """Rows, columns, channels and taps of the matrix product that a layer is."""
    if not isinstance(form, TritonConv):
        return torch.Size(work.shape[:-1]).numel(), *form.product_kind
    sizes = (*(1,) * (3 - form.axes), *work.shape[2:])
    return work.shape[0] * torch.Size(form.geometry.out_size(sizes)).numel(), *form.product_kind


def key_of(form: TritonLayer, work: Work) -> str:
    """What a timing is kept under."""
    window = form.geometry.numbers() if isinstance(form, TritonConv) else []
    plain = (" smoothed" if form.smoothed else "") + ("" if form.bands is None else " with bands")
    given = " rounded in front" if work.rounded else ""
    given += "" if work.norm is None else f" by {work.norm}"
    read = f" upsampled {work.upsample}" if work.upsample > 1 else ""
    asked = f"{tuple(work.shape)} -> {form.weight.shape[0]} {work.dtype}"
    return f"{type(form).__name__} {window} {asked}{plain}{read}{given}"


@torch.no_grad()
def works_of(network: nn.Module, layers: Mapping[str, QuantizedLayer], call: Call) -> dict[str, Work]:
    """The input of each layer in one call of the network, the largest where it is called several times."""
    works: dict[str, Work] = {}
    rounded = rounded_in_front(network) | behind_norms(network) | behind_gates(network)
    enlarged, norms = upsampled_by_index(network), norms_of(network)

    def watching(name: str) -> Callable[..., None]:
        def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = layer_input(args, kwargs)
            if name not in works or x.numel() > torch.Size(works[name].shape).numel():
                even = all(size % TWICE == 0 for size in x.shape[2:])
                upsample, norm = TWICE if name in enlarged and even else 1, norms.get(name)
                ahead = name in rounded
                works[name] = Work(tuple(x.shape), x.dtype, ahead, upsample, norm if ahead else None)

        return watch

    hooks = [layer.register_forward_pre_hook(watching(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        network(*call.args, **call.kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return works


def with_batch(works: Mapping[str, Work], samples: int, batch: int) -> dict[str, Work]:
    """The same work for another number of samples, which the first sizes of inputs are multiples of."""
    return {
        name: replace(work, shape=(max(1, work.shape[0] * batch // samples), *work.shape[1:]))
        for name, work in works.items()
    }


def fitting_on(device: torch.device, around: tuple[int, int] | None = AROUND) -> Fitting:
    """The tiles to try on a GPU: the default and so many larger and smaller ones, all that fit where `around` is None;
    and those that do not fill the card with their steps split.

    Each tile is compiled for each kind of layer, which takes seconds. More smaller ones than larger: Triton (3.6, 3.7)
    waits for each int8 wgmma before the next step's addresses are computed (`warp_group_dot_wait` with no product
    pending), so multiplying and addressing overlap only between two programs of one multiprocessor. A tile of 8 warps
    leaves room for one, so the largest three of 4 warps are tried beside them wherever the largest of all is the
    default.
    """

    def fitting(rows: int, columns: int, channels: int, taps: int) -> list[Settings]:
        all_that_fit = fitting_settings(rows, columns, channels, shared_memory(device), sums_a_thread(device))
        processors = multiprocessors(device)
        if around is None:
            return with_splits(all_that_fit, (rows, columns, channels, taps), processors)
        place = all_that_fit.index(largest_that_fills(rows, columns, all_that_fit, processors))
        larger, smaller = around
        near = all_that_fit[max(0, place - larger) : place + smaller + 1]
        return with_splits(near, (rows, columns, channels, taps), processors)

    return fitting
