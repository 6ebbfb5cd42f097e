"""Are the kernels right on this GPU? Every kernel on shapes and numbers that hurt, against integers and float64.

    python benchmarks/gpu/check.py [--smoke] [--out DIR] [--deadline SECONDS] [--again] [--rehearse]

NOT YET RUN ON A GPU. Most of its time goes into compiling; --smoke asks of each kind of kernel once, within a minute:
the first thing to run on a new card. Each check is a row of its own, and a second run goes on where the first ended.
Of tiles it tries what tells something: the six largest, those that a card may refuse or spill, in a 3 x 3 convolution
and in a linear layer, and two of them with their steps split; every tile that is chosen is checked again when it is
(`self_check`). A tile that asks for more than the card has is left out, which is no mistake.
Leaves with status 1 where a kernel is wrong or cannot run, and prints what was off; with 3 when out of time.
"""

import itertools
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from on_gpu import AGAIN, Clock, Results, keep_compile_caches, parser, reason, require_answer, require_gpu
from torch import Tensor

from ptq4dm.backends.triton_gpu.geometry import Geometry

Check = Callable[[torch.device], float]
"""How far a kernel is off on a device, 0 where it is right."""
CHANNELS = (1, 3, 5, 17, 64, 130, 320)
SIZES = ((1, 1), (1, 7), (5, 3), (16, 16))
ZERO_POINTS = (-128, -37, 127)
HALF, BRAIN = torch.float16, torch.bfloat16
POINT, NINE = Geometry((1, 1, 1)), Geometry((1, 3, 3), padding=(0, 1, 1))
WINDOWS = {
    "k1": POINT,
    "k3": NINE,
    "k3 stride 2": replace(NINE, stride=(1, 2, 2)),
    "k3 upsampled": replace(NINE, upsample=2),
}
SEEN_LESS = {  # window, size
    "k3 dilated by 2": (replace(NINE, padding=(0, 2, 2), dilation=(1, 2, 2)), (1, 7, 5)),
    "1d, k5": (Geometry((1, 1, 5), padding=(0, 0, 2)), (1, 1, 11)),
    "3d, k3": (Geometry((3, 3, 3), padding=(1, 1, 1)), (4, 5, 3)),
    "in time, k3 stride 2": (Geometry((3, 1, 1), (2, 1, 1), (1, 0, 0)), (5, 2, 3)),
}
TILES, SPLIT, SPLITS = 6, 2, 3
"""How many tiles are tried, how many of them with their steps split, and among how many programs."""


def main() -> None:
    own = parser(__doc__ or "")
    own.add_argument("--smoke", action="store_true", help="one check of each kind of kernel, within a minute")
    args = own.parse_args()
    device = require_gpu(args.rehearse)
    keep_compile_caches(args.out)
    clock, results = Clock(args.deadline), Results(args, "check")
    work = smoke(args.rehearse) if args.smoke else checks(args.rehearse)
    for name in results.missing(work):
        if clock.over():
            print(f"out of time before {name}: run the command again to go on")
            sys.exit(AGAIN)
        row = checked(work[name], device)
        results.keep(name, row)
        print(f"{said(row)}  {name}", flush=True)
        require_answer(name)
    failed = {name: results.rows[name] for name in work if {"wrong", "cannot"} & set(results.rows[name])}
    if failed:
        sys.exit("\n".join([*(f"{said(row)}  {name}" for name, row in failed.items()), of_failed(failed, device)]))
    print(f"{len(work)} checks are right on {device}")


def checked(check: Check, device: torch.device) -> dict[str, Any]:
    """The row of one check."""
    from triton.runtime.errors import OutOfResources

    try:
        off = check(device)
    except OutOfResources as error:
        return {"left_out": reason(error)}
    except Exception as error:  # whatever a compiler or a driver raises: the others are worth knowing
        return {"cannot": reason(error)}
    return {"off": 0.0} if off == 0 else {"wrong": off}


def said(row: dict[str, Any]) -> str:
    """What a row says, for people."""
    if "cannot" in row:
        return f"CRASHED ({row['cannot']})"
    if "wrong" in row:
        return f"WRONG (off by {row['wrong']:.3g})"
    return f"left out ({row['left_out']})" if "left_out" in row else "right"


def of_failed(failed: dict[str, Any], device: torch.device) -> str:
    return f"{len(failed)} checks of kernels failed on {device}"


def smoke(few: bool) -> dict[str, Check]:
    """A 3 x 3 convolution, also with a large tile, a linear layer, normalisations, the gate and rounding alone."""
    channels, size, zero = (17, (5, 3), -128) if few else (320, (16, 16), -37)
    of_channels = {f"{name} {channels} channels zero point {zero}" for name in BY_CHANNELS}
    wanted = {f"convolution {channels} channels {size} k3 zero point {zero}", f"group norm {size} zero point {zero}"}
    wanted |= of_channels | set(list(tile_checks(few))[:1])
    return {name: check for name, check in checks(few).items() if name in wanted}


def checks(few: bool) -> dict[str, Check]:
    """What to check, by name, what tells most first; few: as little as a rehearsal has time for."""
    channels, sizes, zero_points = (
        (CHANNELS[3:4], SIZES[2:3], ZERO_POINTS[:1]) if few else (CHANNELS, SIZES, ZERO_POINTS)
    )
    return kind_checks() | tile_checks(few) | shape_checks(channels, sizes, zero_points)


def shape_checks(
    channels: Iterable[int], sizes: Iterable[tuple[int, int]], zero_points: Iterable[int]
) -> dict[str, Check]:
    """Each kernel, on each of these."""
    work: dict[str, Check] = {}
    for c, size, z in itertools.product(channels, sizes, zero_points):
        for name, window in WINDOWS.items():
            work[f"convolution {c} channels {size} {name} zero point {z}"] = partial(
                convolution, c, (1, *size), z, window
            )
    for c, z, (name, check) in itertools.product(channels, zero_points, BY_CHANNELS.items()):
        work[f"{name} {c} channels zero point {z}"] = partial(check, c, z)
    for size, z in itertools.product(sizes, zero_points):
        work[f"group norm {size} zero point {z}"] = partial(group_norm, size, z)
        work[f"group norm of two {size} zero point {z}"] = partial(group_norm_of_two, size, z)
    return work


def kind_checks() -> dict[str, Check]:
    """Windows of other kinds, the other type of half precision, tensors that do not lie together, and time-steps of
    several bands in a call."""
    work: dict[str, Check] = {
        f"convolution {name}": partial(convolution, 17, size, -37, window) for name, (window, size) in SEEN_LESS.items()
    }
    for name, more in (("in bfloat16", {"dtype": BRAIN}), ("of strewn tensors", {"lay": strewn})):
        work[f"convolution {name}"] = partial(convolution, 17, (1, 5, 3), -37, NINE, **more)
        work |= {f"{kind} {name}": partial(check, 17, -37, **more) for kind, check in BY_CHANNELS.items()}
        work[f"group norm {name}"] = partial(group_norm, (5, 3), -37, **more)
    products = {"convolution of several bands": convolution_of_bands, "linear of several bands": linear_of_bands}
    work |= {"normalisations for queries, keys and values": norms_for_three}
    return work | products | {"normalisations, gate and rounding of several bands": rounding_of_bands}


def tile_checks(few: bool) -> dict[str, Check]:
    """The largest tiles, on products of 2,048 rows, 320 channels and 320 columns; in a rehearsal a small one."""
    from ptq4dm.backends.triton_gpu.kernels.launching import CANDIDATES, Settings

    side, wide, tiles = (4, 32, [Settings(16, 16, 32)]) if few else (32, 320, list(CANDIDATES[:TILES]))
    tiles += [replace(tile, splits=SPLITS) for tile in tiles[:SPLIT]]
    kinds = {"convolution k3": tiled_convolution, "linear": tiled_linear}
    return {
        f"{kind} with the tile {tile.name}": partial(check, tile, side, wide)
        for tile in tiles
        for kind, check in kinds.items()
    }


def drawn(*shape: int) -> Tensor:
    """Integers, a quarter of them at the ends."""
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randint(-127, 128, shape, generator=generator)
    ends = torch.where(values % 2 == 0, -127, 127)
    return torch.where(torch.rand(shape, generator=generator) < 0.25, ends, values).to(torch.int8)


def one() -> Tensor:
    return torch.tensor(1.0)


def on(device: torch.device, *tensors: Tensor) -> list[Tensor]:
    return [tensor.to(device) for tensor in tensors]


def as_it_lies(x: Tensor) -> Tensor:
    return x


def strewn(x: Tensor) -> Tensor:
    """The same numbers, of which no two lie side by side in memory."""
    return torch.stack([x, x], dim=-1)[..., 0]


def most(got: Tensor, exact: Tensor) -> float:
    """The largest distance; NaN counts as infinitely far."""
    off = (got.cpu().double() - exact.double()).abs().max()
    return float(off) if off == off else float("inf")


def most_stored(got: Tensor, exact: Tensor, dtype: torch.dtype) -> float:
    """The same, from what `dtype` holds of the exact numbers. Triton's interpreter cuts floats off to bfloat16, where a
    GPU rounds them: there a unit in the last place is no mistake."""
    nearest = exact.float().to(dtype)
    cut_off = dtype == BRAIN and not got.is_cuda and torch.allclose(got, nearest, rtol=2.0**-7, atol=0)
    return 0.0 if cut_off else most(got, nearest)


def seldom(got: Tensor, exact: Tensor) -> float:
    """0 where integers differ by a step at most, in one of a hundred places at most (and in 2 of few)."""
    off = (got.cpu().int() - exact.int()).abs()
    return 0.0 if off.max() <= 1 and int((off > 0).sum()) <= max(2, off.numel() // 100) else float(off.max())


def convolution(
    channels: int,
    size: tuple[int, int, int],
    zero_point: int,
    window: Geometry,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    lay: Callable[[Tensor], Tensor] = as_it_lies,
) -> float:
    """The integer sums themselves (float32 holds them), 37 outputs, with padding; rounded once to a lesser `dtype`."""
    from ptq4dm.backends.triton_gpu.kernels import convolution as kernels
    from ptq4dm.backends.triton_gpu.packing import tap_sums

    taps, zero = window.taps[0] * window.taps[1] * window.taps[2], torch.tensor(zero_point).char()
    q, weight = drawn(2, *size, channels), drawn(37, taps, channels)
    sums = tap_sums(weight, window.taps, window.most)
    tensors = on(device, q, weight, sums, one(), zero, torch.ones(37))
    got = kernels.convolution(lay(tensors[0]), *tensors[1:], window, dtype)
    return most_stored(got, kernels.reference(q, weight, zero, window), dtype)


def linear(
    channels: int,
    zero_point: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    lay: Callable[[Tensor], Tensor] = as_it_lies,
) -> float:
    """Sums, bias, an embedding and a residual of small integers, and the result rounded to bytes."""
    from ptq4dm.backends.triton_gpu.kernels import linear as kernels

    half = BRAIN if dtype == BRAIN else HALF
    q, weight, zero = drawn(2, 9, channels), drawn(37, channels), torch.tensor(zero_point).char()
    bias, embedding, residual = drawn(37).float(), drawn(2, 37).to(half), drawn(2, 9, 37).to(half)
    exact = (kernels.reference(q, weight) - zero_point * weight.long().sum(1)).double()
    exact = (exact + bias) + embedding[:, None] + residual
    tensors = on(device, q, weight, weight.sum(1).int(), one(), zero, torch.ones(37))
    tensors[0] = lay(tensors[0])
    added = [on(device, bias)[0], *map(lay, on(device, embedding, residual))]
    off = most_stored(kernels.linear(*tensors, dtype, *added), exact, dtype)
    rounded = kernels.linear(*tensors, half, *added, *on(device, torch.tensor(256.0), torch.tensor(-5).char()))
    return max(off, most(rounded, (torch.round(exact / 256) - 5).clamp(-128, 127)))


def quantize(
    channels: int,
    zero_point: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    lay: Callable[[Tensor], Tensor] = as_it_lies,
) -> float:
    """Ties, infinities and plain numbers, channels first in memory."""
    from ptq4dm.backends.triton_gpu.kernels import quantize as kernels

    x = torch.randn(2, channels, 5, 3, generator=torch.Generator().manual_seed(channels)) * 9
    x[0, 0, 0] = torch.tensor([0.125, float("inf"), -1e30])
    step, zero = torch.rand(channels) + 0.01, torch.tensor(zero_point).char()
    step[0] = 0.25
    x = x.to(dtype)
    given = lay(x.to(device)).movedim(1, -1)
    return most(kernels.quantize(given, *on(device, step, zero)), kernels.reference(x.movedim(1, -1), step, zero))


def layer_norm(
    channels: int,
    zero_point: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    lay: Callable[[Tensor], Tensor] = as_it_lies,
) -> float:
    """With scale and shift of the time-step: at most a step, and that seldom."""
    from ptq4dm.backends.triton_gpu.kernels import layer_norm as kernels

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 9, channels, generator=generator).to(dtype)
    scale, shift = (torch.randn(2, channels, generator=generator).to(dtype) for _ in range(2))
    step, zero = torch.tensor(0.02), torch.tensor(zero_point).char()
    exact = kernels.reference(x, None, None, 1e-5, step, zero, scale, shift)
    x, scale, shift = map(lay, on(device, x, scale, shift))
    return seldom(kernels.layer_norm_quantize(x, None, None, 1e-5, *on(device, step, zero), scale, shift), exact)


def gate(
    channels: int,
    zero_point: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    lay: Callable[[Tensor], Tensor] = as_it_lies,
) -> float:
    """Values and gates of both signs: at most a step, and that seldom."""
    from ptq4dm.backends.triton_gpu.kernels import geglu as kernels

    x = (torch.randn(2, 9, 2 * channels, generator=torch.Generator().manual_seed(1)) * 3).to(dtype)
    step, zero = torch.tensor(0.05), torch.tensor(zero_point).char()
    got = kernels.geglu_quantize(lay(x.to(device)), *on(device, step, zero))
    return seldom(got, kernels.reference(x, step, zero))


def activation(
    channels: int,
    zero_point: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    lay: Callable[[Tensor], Tensor] = as_it_lies,
) -> float:
    """GELU, exact and as tanh approximates it: at most a step, and that seldom."""
    from ptq4dm.backends.triton_gpu.kernels import gelu as kernels

    x = (torch.randn(2, 9, channels, generator=torch.Generator().manual_seed(1)) * 3).to(dtype)
    step, zero = torch.tensor(0.05), torch.tensor(zero_point).char()
    laid, moved = lay(x.to(device)), on(device, step, zero)
    return max(
        seldom(kernels.gelu_quantize(laid, tanh, *moved), kernels.reference(x, tanh, step, zero))
        for tanh in (False, True)
    )


BY_CHANNELS: dict[str, Callable[..., float]] = {
    "linear": linear,
    "quantize": quantize,
    "gate": gate,
    "activation": activation,
    "layer norm": layer_norm,
}
"""The kernels whose channels are what hurts: (channels, zero point, device, dtype, lay) -> how far off."""


def group_norm(
    size: tuple[int, int],
    zero_point: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    lay: Callable[[Tensor], Tensor] = as_it_lies,
) -> float:
    """40 channels in 4 groups far from zero, with scale and shift and SiLU: at most a step, and that seldom."""
    from ptq4dm.backends.triton_gpu.kernels import group_norm as kernels

    generator = torch.Generator().manual_seed(1)
    x = (torch.randn(2, *size, 40, generator=generator) * 3 + 50).to(dtype)
    weight, bias, scale, shift = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((40,), (40,), (2, 40), (2, 40))
    )
    step, zero = torch.tensor(0.02), torch.tensor(zero_point).char()
    exact = kernels.reference(x, 4, weight, bias, 1e-5, True, step, zero, scale, shift)
    weight, bias, step, zero, *modulation = on(device, weight, bias, step, zero, scale, shift)
    given = (lay(x.to(device)), 4, weight, bias, 1e-5, True, step, zero, *map(lay, modulation))
    return seldom(kernels.group_norm_quantize(*given), exact)


def group_norm_of_two(size: tuple[int, int], zero_point: int, device: torch.device) -> float:
    """22 and 18 channels in 4 groups, one of them across both, in one part and in several: seldom a step from torch's
    own of the joined ones, what the kernel gives for these, and the integers of rounding alone."""
    from ptq4dm.backends.triton_gpu.kernels import group_norm as kernels
    from ptq4dm.backends.triton_gpu.kernels.quantize import reference

    generator = torch.Generator().manual_seed(1)
    whole = torch.randn(2, *size, 40, generator=generator) * 3 + 50
    weight, bias, step, own_step = (torch.rand(40, generator=generator) + 0.02 for _ in range(4))
    zero, own_zero = torch.tensor(zero_point).char(), torch.tensor(-100).char()
    exact = reference(whole, own_step, own_zero)
    normalised = kernels.reference(whole, 4, weight, bias, 1e-5, True, step, zero)
    whole, weight, bias, step, zero, *rounding = on(device, whole, weight, bias, step, zero, own_step, own_zero)
    joined, off = (4, weight, bias, 1e-5, True, step, zero), 0.0
    for parts in (1, 4):
        own = torch.full_like(whole, 99, dtype=torch.int8)
        pair = {"beside": whole[..., 22:].contiguous(), "own": (own, *rounding)}
        got = kernels.group_norm_quantize(whole[..., :22].contiguous(), *joined, **pair, parts=parts)
        alone = kernels.group_norm_quantize(whole, *joined, parts=parts)
        off = max(off, seldom(got, normalised), most(got, alone.cpu()), most(own, exact))
    return off


def norms_for_three(device: torch.device) -> float:
    """Three roundings at once, each with its own step a channel: what one at a time gives."""
    from ptq4dm.backends.triton_gpu.kernels import group_norm, layer_norm

    generator = torch.Generator().manual_seed(1)
    x, weight, bias = on(device, *(torch.randn(*shape, 40, generator=generator) for shape in ((2, 9), (), ())))
    step, zero = on(device, torch.rand(3, 40, generator=generator) / 20 + 0.01, torch.tensor([-128, -3, 127]).char())
    off = 0.0
    for kernel, first in (
        (group_norm.group_norm_quantize, (x, 4, weight, bias, 1e-5, True)),
        (layer_norm.layer_norm_quantize, (x, weight, bias, 1e-5)),
    ):
        for got, one, z in zip(kernel(*first, step, zero, roundings=3), step, zero):
            off = max(off, most(got, kernel(*first, one, z).cpu()))
    return off


BANDS = torch.tensor([2, 0])
"""Of two samples in a call."""
SCALES, ZEROS = torch.tensor([1.0, 4.0, 0.5]), torch.tensor([-128, 60, -37], dtype=torch.int8)
"""Of three bands: with scales that are powers of two, sums stay exact."""


def convolution_of_bands(device: torch.device) -> float:
    """3 x 3, with padding: scale and zero point of each sample's own band."""
    from ptq4dm.backends.triton_gpu.kernels import convolution as kernels
    from ptq4dm.backends.triton_gpu.packing import tap_sums

    q, weight = drawn(2, 1, 5, 3, 17), drawn(37, 9, 17)
    parts = [kernels.reference(q[i : i + 1], weight, ZEROS[band], NINE) * SCALES[band] for i, band in enumerate(BANDS)]
    tensors = on(device, q, weight, tap_sums(weight, NINE.taps, NINE.most), SCALES, ZEROS, torch.ones(37))
    return most(kernels.convolution(*tensors, NINE, torch.float32, band=BANDS.to(device)), torch.cat(parts))


def linear_of_bands(device: torch.device) -> float:
    """The same of a linear layer."""
    from ptq4dm.backends.triton_gpu.kernels import linear as kernels

    q, weight = drawn(2, 9, 17), drawn(37, 17)
    centred = q.double() - ZEROS[BANDS].double()[:, None, None]
    exact = centred @ weight.double().T * SCALES[BANDS].double()[:, None, None]
    tensors = on(device, q, weight, weight.sum(1).int(), SCALES, ZEROS, torch.ones(37))
    return most(kernels.linear(*tensors, torch.float32, band=BANDS.to(device)), exact)


def rounding_of_bands(device: torch.device) -> float:
    """Each kernel that rounds, with a step a band and a channel: of each sample what its own band alone gives."""
    from ptq4dm.backends.triton_gpu.kernels import geglu, group_norm, layer_norm, quantize

    generator = torch.Generator().manual_seed(1)
    steps = torch.rand(3, 40, generator=generator) / 20 + 0.01
    x, wide = (torch.randn(2, 9, channels, generator=generator) * 3 for channels in (40, 80))
    weight, bias = (torch.randn(40, generator=generator) for _ in range(2))
    moved = on(device, weight, bias)
    kernels: list[tuple[Tensor, Callable[..., Tensor], Callable[..., Tensor]]] = [
        (x, quantize.quantize, quantize.reference),
        (wide, geglu.geglu_quantize, geglu.reference),
        (
            x,
            lambda x, *rest, band: layer_norm.layer_norm_quantize(x, *moved, 1e-5, *rest, None, None, band),
            lambda x, *rest: layer_norm.reference(x, weight, bias, 1e-5, *rest),
        ),
        (
            x,
            lambda x, *rest, band: group_norm.group_norm_quantize(x, 4, *moved, 1e-5, True, *rest, None, None, band),
            lambda x, *rest: group_norm.reference(x, 4, weight, bias, 1e-5, True, *rest),
        ),
    ]
    off = 0.0
    for given, kernel, reference in kernels:
        got = kernel(*on(device, given, steps, ZEROS), band=BANDS.to(device))
        parts = [reference(given[i : i + 1], steps[band], ZEROS[band]) for i, band in enumerate(BANDS)]
        off = max(off, seldom(got, torch.cat(parts)))
    return off


def tiled_convolution(tile: Any, side: int, wide: int, device: torch.device) -> float:
    """Sums that float32 holds, bias, embedding and residual of small integers, as floats and rounded to bytes."""
    from ptq4dm.backends.triton_gpu.kernels import convolution as kernels
    from ptq4dm.backends.triton_gpu.packing import tap_sums

    q, weight, zero = drawn(2, 1, side, side, wide), drawn(wide, 9, wide) % 8, torch.tensor(-37).char()
    bias, embedding, residual = drawn(wide).float(), drawn(2, wide).half(), drawn(2, 1, side, side, wide).half()
    exact = kernels.reference(*on(device, q, weight, zero), NINE).cpu()
    exact = exact + bias + embedding[:, None, None, None] + residual
    tensors = on(device, q, weight, tap_sums(weight, NINE.taps, NINE.most), one(), zero, torch.ones(wide))
    added, rounding = on(device, bias, embedding, residual), on(device, torch.tensor(4096.0), zero)
    got = kernels.convolution(*tensors, NINE, torch.float32, *added, settings=tile)
    rounded = kernels.convolution(*tensors, NINE, HALF, *added, *rounding, settings=tile)
    return max(most(got, exact), most(rounded, (torch.round(exact / 4096) - 37).clamp(-128, 127)))


def tiled_linear(tile: Any, side: int, wide: int, device: torch.device) -> float:
    """The same of a linear layer."""
    from ptq4dm.backends.triton_gpu.kernels import linear as kernels

    q, weight, zero = drawn(2, side * side, wide), drawn(wide, wide) % 8, torch.tensor(-37).char()
    bias, embedding, residual = drawn(wide).float(), drawn(2, wide).half(), drawn(2, side * side, wide).half()
    exact = (q.double() + 37) @ weight.double().T + bias + embedding[:, None] + residual
    tensors = on(device, q, weight, weight.sum(1).int(), one(), zero, torch.ones(wide))
    added, rounding = on(device, bias, embedding, residual), on(device, torch.tensor(4096.0), zero)
    got = kernels.linear(*tensors, torch.float32, *added, settings=tile)
    rounded = kernels.linear(*tensors, HALF, *added, *rounding, settings=tile)
    return max(most(got, exact), most(rounded, (torch.round(exact / 4096) - 37).clamp(-128, 127)))


if __name__ == "__main__":
    main()
