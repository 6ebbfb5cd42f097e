"""Are the kernels right on this GPU? Every kernel on shapes and numbers that hurt, against integers and float64.

    python benchmarks/gpu/check.py [--rehearse]

NOT YET RUN ON A GPU. Takes a minute, most of it for compiling; the first thing to run on a new card. Leaves with status
1 where a kernel is wrong, and prints what was off.
"""

import argparse
import itertools
import sys
from collections.abc import Callable

import torch
from on_gpu import require_gpu
from torch import Tensor

CHANNELS = (1, 3, 5, 17, 64, 130, 320)
SIZES = ((1, 1), (1, 7), (5, 3), (16, 16))
ZERO_POINTS = (-128, -37, 127)
CPU = torch.device("cpu")


def main() -> None:
    own = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    own.add_argument("--rehearse", action="store_true", help="on the CPU in Triton's interpreter, fewer shapes")
    args = own.parse_args()
    device = require_gpu(args.rehearse)
    wrong = []
    for name, check in checks(args.rehearse).items():
        off = check(device)
        print(f"{'right' if off == 0 else 'WRONG'}  {name}" + (f": off by {off:.3g}" if off else ""))
        wrong += [name] if off else []
    if wrong:
        sys.exit(f"{len(wrong)} kernels are wrong on {device}")


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
        work[f"layer norm {c} channels zero point {z}"] = lambda device, a=(c, z): layer_norm(*a, device)
    for size, z in itertools.product(sizes, zero_points):
        work[f"group norm {size} zero point {z}"] = lambda device, a=(size, z): group_norm(*a, device)
    return work


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


def seldom(got: Tensor, exact: Tensor) -> float:
    """0 where integers differ by a step at most, in one of a hundred places at most (and in 2 of few)."""
    off = (got.cpu().int() - exact.int()).abs()
    return 0.0 if off.max() <= 1 and int((off > 0).sum()) <= max(2, off.numel() // 100) else float(off.max())


if __name__ == "__main__":
    main()
