"""Are the kernels right on this GPU? Every kernel on shapes and numbers that hurt, against integers and float64.

    python benchmarks/gpu/check.py [--rehearse]

NOT YET RUN ON A GPU. Takes some minutes, most of it for compiling; the first thing to run on a new card. Leaves with
status 1 where a kernel is wrong or cannot run, and prints what was off. That all are right is written beside the other
results, for `all.py`.
"""

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from on_gpu import Results, keep_compile_caches, parser, reason, require_gpu
from torch import Tensor

CHANNELS = (1, 3, 5, 17, 64, 130, 320)
SIZES = ((1, 1), (1, 7), (5, 3), (16, 16))
ZERO_POINTS = (-128, -37, 127)
HALF = torch.float16


def main() -> None:
    args = parser(__doc__ or "").parse_args()
    device = require_gpu(args.rehearse)
    keep_compile_caches(args.out)
    wrong = []
    for name, check in (checks(args.rehearse) | tile_checks(device)).items():
        try:
            off = check(device)
            said = f"right  {name}" if off == 0 else f"WRONG  {name}: off by {off:.3g}"
        except Exception as error:  # whatever a compiler or a driver raises: the others are worth knowing
            said = f"CRASHED  {name}: {reason(error)}"
        print(said)
        wrong += [] if said.startswith("right") else [name]
    if wrong:
        sys.exit(f"{len(wrong)} kernels are wrong on {device}")
    results = Results(args, "check")
    results.keep("check", {"passed": True})


def checks(few: bool) -> dict[str, Callable[[torch.device], float]]:
    """What to check, by name; each gives how far it is off, 0 where it is right."""
    channels, sizes, zero_points = (
        (CHANNELS[3:4], SIZES[2:3], ZERO_POINTS[:1]) if few else (CHANNELS, SIZES, ZERO_POINTS)
    )
    work: dict[str, Callable[[torch.device], float]] = {}
    for c, size, z in itertools.product(channels, sizes, zero_points):
        for taps, stride, upsample in ((1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2)):
            name = f"convolution {c} channels {size} k{taps} stride {stride} upsample {upsample} zero point {z}"
            work[name] = lambda device, a=(c, size, z, taps, stride, upsample): convolution(*a, device)
    for c, z in itertools.product(channels, zero_points):
        work[f"linear {c} channels zero point {z}"] = lambda device, a=(c, z): linear(*a, device)
        work[f"quantize {c} channels zero point {z}"] = lambda device, a=(c, z): quantize(*a, device)
        work[f"gate {c} channels zero point {z}"] = lambda device, a=(c, z): gate(*a, device)
        work[f"layer norm {c} channels zero point {z}"] = lambda device, a=(c, z): layer_norm(*a, device)
    for size, z in itertools.product(sizes, zero_points):
        work[f"group norm {size} zero point {z}"] = lambda device, a=(size, z): group_norm(*a, device)
        work[f"group norm of two {size} zero point {z}"] = lambda device, a=(size, z): group_norm_of_two(*a, device)
    return work


def tile_checks(device: torch.device) -> dict[str, Callable[[torch.device], float]]:
    """Every tile that fits the card, on a product of 2,048 rows, 320 channels and 320 columns; in a rehearsal one."""
    from ptq4dm.backends.triton_gpu.kernels.launching import Settings, fitting_settings, shared_memory, sums_a_thread

    side, wide = (32, 320) if device.type == "cuda" else (4, 32)
    tiles = [Settings(16, 16, 32)]
    if device.type == "cuda":
        tiles = fitting_settings(2 * side**2, wide, wide, shared_memory(device), sums_a_thread(device))
    tiles += [replace(tile, splits=3) for tile in tiles]
    return {
        f"convolution k{taps} with the tile {tile.name}": lambda device, a=(tile, taps, side, wide): tiled(*a, device)
        for tile in tiles
        for taps in (1, 3)
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


def most(got: Tensor, exact: Tensor) -> float:
    """The largest distance; NaN counts as infinitely far."""
    off = (got.cpu().double() - exact.double()).abs().max()
    return float(off) if off == off else float("inf")


def convolution(
    channels: int, size: tuple[int, int], zero_point: int, taps: int, stride: int, upsample: int, device: torch.device
) -> float:
    """The integer sums themselves (float32 holds them), 37 outputs, with padding."""
    from ptq4dm.backends.triton_gpu.geometry import Geometry
    from ptq4dm.backends.triton_gpu.kernels import convolution as kernels
    from ptq4dm.backends.triton_gpu.packing import tap_sums

    window = Geometry((1, taps, taps), (1, stride, stride), (0, taps // 2, taps // 2), upsample=upsample)
    q, weight, zero = drawn(2, 1, *size, channels), drawn(37, taps * taps, channels), torch.tensor(zero_point).char()
    sums = tap_sums(weight, window.taps, window.most)
    tensors = on(device, q, weight, sums, one(), zero, torch.ones(37))
    got = kernels.convolution(*tensors, window, torch.float32)
    exact = kernels.reference(q, weight, zero, window)
    return 0.0 if torch.equal(got.cpu(), exact.float()) else most(got, exact)


def tiled(tile: Any, taps: int, side: int, wide: int, device: torch.device) -> float:
    """Sums that float32 holds, bias, embedding and residual of small integers, as floats and rounded to bytes; of one
    tap the linear layer too."""
    from ptq4dm.backends.triton_gpu.geometry import Geometry
    from ptq4dm.backends.triton_gpu.kernels import convolution, linear
    from ptq4dm.backends.triton_gpu.packing import tap_sums

    window, zero = Geometry((1, taps, taps), (1, 1, 1), (0, taps // 2, taps // 2)), torch.tensor(-37).char()
    q, weight = drawn(2, 1, side, side, wide), drawn(wide, taps * taps, wide) % 8
    bias, embedding, residual = drawn(wide).float(), drawn(2, wide).half(), drawn(2, 1, side, side, wide).half()
    exact = convolution.reference(*on(device, q, weight, zero), window).cpu()
    exact = exact + bias + embedding[:, None, None, None] + residual
    sums = tap_sums(weight, window.taps, window.most)
    tensors = on(device, q, weight, sums, one(), zero, torch.ones(wide))
    added, step, out_zero = on(device, bias, embedding, residual), *on(device, torch.tensor(4096.0), zero)
    to_bytes = (torch.round(exact / 4096) - 37).clamp(-128, 127)
    got = convolution.convolution(*tensors, window, torch.float32, *added, settings=tile)
    rounded = convolution.convolution(*tensors, window, HALF, *added, step, out_zero, settings=tile)
    off = max(most(got, exact), most(rounded, to_bytes))
    if taps > 1:
        return off
    tensors[1], tensors[2] = tensors[1][:, 0], tensors[2][0]
    got = linear.linear(*tensors, torch.float32, *added, settings=tile)
    return max(
        off, most(got, exact), most(linear.linear(*tensors, HALF, *added, step, out_zero, settings=tile), to_bytes)
    )


def linear(channels: int, zero_point: int, device: torch.device) -> float:
    """Sums, bias, an embedding and a residual of small integers, and the result rounded to bytes."""
    from ptq4dm.backends.triton_gpu.kernels import linear as kernels

    q, weight, zero = drawn(2, 9, channels), drawn(37, channels), torch.tensor(zero_point).char()
    bias, embedding, residual = drawn(37).float(), drawn(2, 37).half(), drawn(2, 9, 37).half()
    exact = (kernels.reference(q, weight) - zero_point * weight.long().sum(1)).double()
    exact = (exact + bias) + embedding[:, None] + residual
    tensors = on(device, q, weight, weight.sum(1).int(), one(), zero, torch.ones(37))
    more = dict(zip(("bias", "embedding", "residual"), on(device, bias, embedding, residual), strict=True))
    off = most(kernels.linear(*tensors, torch.float32, **more), exact.float())
    step, out_zero = on(device, torch.tensor(256.0), torch.tensor(-5).char())
    rounded = kernels.linear(*tensors, torch.float16, **more, out_step=step, out_zero_point=out_zero)
    return max(off, most(rounded, (torch.round(exact / 256) - 5).clamp(-128, 127)))


def quantize(channels: int, zero_point: int, device: torch.device) -> float:
    """Ties, infinities and plain numbers, channels first in memory."""
    from ptq4dm.backends.triton_gpu.kernels import quantize as kernels

    x = torch.randn(2, channels, 5, 3, generator=torch.Generator().manual_seed(channels)) * 9
    x[0, 0, 0] = torch.tensor([0.125, float("inf"), -1e30])
    step, zero = torch.rand(channels) + 0.01, torch.tensor(zero_point).char()
    step[0] = 0.25
    return most(
        kernels.quantize(*on(device, x.movedim(1, -1), step, zero)), kernels.reference(x.movedim(1, -1), step, zero)
    )


def group_norm(size: tuple[int, int], zero_point: int, device: torch.device) -> float:
    """40 channels in 4 groups far from zero, with scale and shift and SiLU: at most a step, and that seldom."""
    from ptq4dm.backends.triton_gpu.kernels import group_norm as kernels

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, *size, 40, generator=generator) * 3 + 50
    weight, bias, scale, shift = (torch.randn(shape, generator=generator) for shape in ((40,), (40,), (2, 40), (2, 40)))
    step, zero = torch.tensor(0.02), torch.tensor(zero_point).char()
    exact = kernels.reference(x.double().float(), 4, weight, bias, 1e-5, True, step, zero, scale, shift)
    x, weight, bias, scale, shift, step, zero = on(device, x, weight, bias, scale, shift, step, zero)
    return seldom(kernels.group_norm_quantize(x, 4, weight, bias, 1e-5, True, step, zero, scale, shift), exact)


def group_norm_of_two(size: tuple[int, int], zero_point: int, device: torch.device) -> float:
    """22 and 18 channels in 4 groups, one of them across both: that joined ones give these integers, and those of
    rounding alone, in one part and in several."""
    from ptq4dm.backends.triton_gpu.kernels import group_norm as kernels
    from ptq4dm.backends.triton_gpu.kernels.quantize import reference

    generator = torch.Generator().manual_seed(1)
    whole = torch.randn(2, *size, 40, generator=generator) * 3 + 50
    weight, bias, step, own_step = (torch.rand(40, generator=generator) + 0.02 for _ in range(4))
    zero, own_zero = torch.tensor(zero_point).char(), torch.tensor(-100).char()
    exact = reference(whole, own_step, own_zero)
    whole, weight, bias, step, zero, *rounding = on(device, whole, weight, bias, step, zero, own_step, own_zero)
    joined, off = (4, weight, bias, 1e-5, True, step, zero), 0.0
    for parts in (1, 4):
        own = torch.full_like(whole, 99, dtype=torch.int8)
        pair = {"beside": whole[..., 22:].contiguous(), "own": (own, *rounding)}
        got = kernels.group_norm_quantize(whole[..., :22].contiguous(), *joined, **pair, parts=parts)
        alone = kernels.group_norm_quantize(whole, *joined, parts=parts)
        off = max(off, most(got, alone.cpu()), most(own, exact))
    return off


def layer_norm(channels: int, zero_point: int, device: torch.device) -> float:
    """With scale and shift of the time-step: at most a step, and that seldom."""
    from ptq4dm.backends.triton_gpu.kernels import layer_norm as kernels

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 9, channels, generator=generator)
    scale, shift = torch.randn(2, channels, generator=generator), torch.randn(2, channels, generator=generator)
    step, zero = torch.tensor(0.02), torch.tensor(zero_point).char()
    exact = kernels.reference(x, None, None, 1e-5, step, zero, scale, shift)
    x, scale, shift, step, zero = on(device, x, scale, shift, step, zero)
    return seldom(kernels.layer_norm_quantize(x, None, None, 1e-5, step, zero, scale, shift), exact)


def gate(channels: int, zero_point: int, device: torch.device) -> float:
    """Values and gates of both signs: at most a step, and that seldom."""
    from ptq4dm.backends.triton_gpu.kernels import geglu as kernels

    x = torch.randn(2, 9, 2 * channels, generator=torch.Generator().manual_seed(1)) * 3
    step, zero = torch.tensor(0.05), torch.tensor(zero_point).char()
    return seldom(kernels.geglu_quantize(*on(device, x, step, zero)), kernels.reference(x, step, zero))


def seldom(got: Tensor, exact: Tensor) -> float:
    """0 where integers differ by a step at most, in one of a hundred places at most (and in 2 of few)."""
    off = (got.cpu().int() - exact.int()).abs()
    return 0.0 if off.max() <= 1 and int((off > 0).sum()) <= max(2, off.numel() // 100) else float(off.max())


if __name__ == "__main__":
    main()
