"""Each kernel on a GPU: correct first, then beside cuDNN and cuBLAS in FP16, and its share of the card's measured peak.

    python benchmarks/gpu/bench_kernels.py [--out DIR] [--deadline SECONDS] [--again] [--rehearse]

NOT YET RUN ON A GPU. Written to run unattended: one command, ten minutes, resumable (a second run goes on where the
first ended). Every tile that fits is timed for every product, so one run tells what to tune. Writes JSON, prints a
table last.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from on_gpu import AGAIN, Clock, Results, alternating, keep_compile_caches, parser, ratio, reason, require_gpu, spread
from torch import Tensor

CONVOLUTIONS = [  # batch, size, in, out, taps, stride
    (256, 32, 128, 128, 3, 1),
    (256, 16, 256, 256, 3, 1),
    (256, 32, 384, 128, 3, 1),
    (256, 16, 256, 256, 3, 2),
    (128, 64, 128, 128, 3, 1),
    (128, 16, 384, 384, 3, 1),
    (8, 64, 320, 320, 3, 1),
    (8, 32, 640, 640, 3, 1),
    (8, 32, 1920, 640, 3, 1),
    (8, 16, 1280, 1280, 3, 1),
    (8, 16, 2560, 1280, 3, 1),
    (8, 8, 1280, 1280, 3, 1),
    (8, 64, 320, 320, 1, 1),
    (1, 32, 256, 256, 3, 1),
    (1, 64, 320, 320, 3, 1),
]
LINEARS = [  # rows, in, out
    (8 * 4096, 320, 320),
    (8 * 4096, 320, 2560),
    (8 * 1024, 640, 5120),
    (8 * 256, 1280, 10240),
    (8 * 77, 768, 1280),
    (16 * 256, 1152, 4608),
    (65536, 256, 256),
]
NORMS = [(256, 32, 128), (256, 16, 256), (128, 64, 128), (8, 64, 320), (8, 16, 1280), (1, 64, 320)]
REHEARSED = [(2, 4, 16, 16, 3, 1)], [(8, 32, 16)], [(1, 4, 32)]
PEAK_SIZE, COPIED = 8192, 1 << 30
"""The side of the products and the bytes of the copy that tell what the card reaches."""


def main() -> None:
    args = parser(__doc__ or "").parse_args()
    device = require_gpu(args.rehearse)
    keep_compile_caches(args.out)
    torch.backends.cudnn.benchmark = True  # the rival at its best
    clock, results, work = Clock(args.deadline), Results(args, "kernels"), pieces(args.rehearse)
    for name in results.missing(work):
        if clock.over():
            table(results.rows)
            print(f"out of time before {name}: run the command again to go on")
            sys.exit(AGAIN)
        try:
            row = work[name](device, args.rounds)
        except Exception as error:  # whatever a compiler or a driver raises: the others are measured all the same
            row = {"cannot": reason(error)}
        results.keep(name, row)
    table(results.rows)


def pieces(rehearse: bool) -> dict[str, Callable[[torch.device, int], dict[str, Any]]]:
    """What is measured, by name: (device, rounds) -> row."""
    convolutions, linears, norms = REHEARSED if rehearse else (CONVOLUTIONS, LINEARS, NORMS)
    size, copied = (64, 1 << 12) if rehearse else (PEAK_SIZE, COPIED)
    return {
        "peaks": lambda device, rounds: peaks(device, rounds, size, copied),
        **{f"convolution {one}": partial(convolution, one) for one in convolutions},
        **{f"linear {one}": partial(linear, one) for one in linears},
        **{f"norm {one}": partial(norm, one) for one in norms},
    }


def peaks(device: torch.device, rounds: int, size: int, copied: int) -> dict[str, Any]:
    """What the card reaches through its libraries: square FP16 and INT8 products, and a copy."""
    half = torch.randn(size, size, device=device, dtype=torch.float16)
    whole = torch.randint(-128, 128, (size, size), device=device, dtype=torch.int8)
    large = torch.randn(copied // 4, device=device)
    to = torch.empty_like(large)
    times = alternating(
        {
            "fp16": lambda index: half @ half,
            "int8": lambda index: torch._int_mm(whole, whole.t()),
            "copy": lambda index: to.copy_(large),
        },
        rounds,
    )
    operations = 2 * size**3
    medians = {name: spread(taken)["median"] for name, taken in times.items()}
    return {
        "fp16_tflops": operations / medians["fp16"] / 1e9,
        "int8_tops": operations / medians["int8"] / 1e9,
        "bytes_per_second": 2 * large.numel() * 4 / medians["copy"] * 1e3,
        "ms": {name: spread(taken) for name, taken in times.items()},
    }


def several(one: Callable[[], Tensor]) -> list[Tensor]:
    """A few inputs; that the cache holds none of them is `on_gpu.by_events`'s work."""
    return [one() for _ in range(3)]


def convolution(shape: tuple[int, ...], device: torch.device, rounds: int) -> dict[str, Any]:
    """One shape: every tile by itself, then the best beside cuDNN in turns."""
    from ptq4dm.backends.triton_gpu.geometry import Geometry
    from ptq4dm.backends.triton_gpu.kernels import convolution as kernels
    from ptq4dm.backends.triton_gpu.packing import tap_sums

    batch, size, channels, out, taps, stride = shape
    padding = taps // 2
    window = Geometry((1, taps, taps), (1, stride, stride), (0, padding, padding))
    weight = torch.randint(-127, 128, (out, taps * taps, channels), device=device, dtype=torch.int8)
    sums = tap_sums(weight.cpu(), window.taps, window.most).to(device)
    zero, one = torch.tensor(-37, device=device, dtype=torch.int8), torch.tensor(0.01, device=device)
    scale, bias = torch.rand(out, device=device) / 100, torch.randn(out, device=device)

    def run(q: Tensor, dtype: torch.dtype = torch.float16, tile: Any = None) -> Tensor:
        return kernels.convolution(q, weight, sums, one, zero, scale, window, dtype, bias, settings=tile)

    def drawn() -> Tensor:
        return torch.randint(-128, 128, (batch, 1, size, size, channels), device=device, dtype=torch.int8)

    few = drawn()[:2]
    exact = kernels.reference(few, weight, zero, window) * (one * scale).double() + bias.double()
    inputs = several(drawn)
    pictures = [q[:, 0].movedim(-1, 1).half() for q in inputs]
    kernel = (weight * scale[:, None, None]).half().view(out, taps, taps, channels).movedim(-1, 1)
    held = bias.half()
    rows = batch * (size // stride) ** 2
    return contest(
        lambda tile: lambda index: run(inputs[index % len(inputs)], tile=tile),
        lambda index: F.conv2d(pictures[index % len(pictures)], kernel, held, stride, padding),
        lambda tile: error(run(few, torch.float32, tile), exact),
        (rows, out, channels, taps**2),
        2 * rows * out * channels * taps * taps,
        rounds,
        device,
    )


def linear(shape: tuple[int, ...], device: torch.device, rounds: int) -> dict[str, Any]:
    """One shape: every tile by itself, then the best beside cuBLAS in turns."""
    from ptq4dm.backends.triton_gpu.kernels import linear as kernels

    rows, depth, out = shape
    weight = torch.randint(-127, 128, (out, depth), device=device, dtype=torch.int8)
    sums, zero = weight.sum(1).int(), torch.tensor(-37, device=device, dtype=torch.int8)
    one, scale, bias = (
        torch.tensor(0.01, device=device),
        torch.rand(out, device=device),
        torch.randn(out, device=device),
    )

    def run(q: Tensor, dtype: torch.dtype = torch.float16, tile: Any = None) -> Tensor:
        return kernels.linear(q, weight, sums, one, zero, scale, dtype, bias, settings=tile)

    def drawn() -> Tensor:
        return torch.randint(-128, 128, (rows, depth), device=device, dtype=torch.int8)

    few, inputs = drawn()[:64], several(drawn)
    exact = (few.double() + 37) @ weight.double().T * (one * scale).double() + bias.double()
    floats, kernel, held = [q.half() for q in inputs], (weight * scale[:, None]).half(), bias.half()
    return contest(
        lambda tile: lambda index: run(inputs[index % len(inputs)], tile=tile),
        lambda index: F.linear(floats[index % len(floats)], kernel, held),
        lambda tile: error(run(few, torch.float32, tile), exact),
        (rows, out, depth, 1),
        2 * rows * out * depth,
        rounds,
        device,
    )


def norm(shape: tuple[int, ...], device: torch.device, rounds: int) -> dict[str, Any]:
    """GroupNorm, SiLU and rounding in one kernel, beside GroupNorm and SiLU in FP16 (eager)."""
    from ptq4dm.backends.triton_gpu.kernels import group_norm as kernels

    batch, size, channels = shape
    weight, bias = torch.randn(channels, device=device).half(), torch.randn(channels, device=device).half()
    step, zero = torch.tensor(0.03, device=device), torch.tensor(-100, device=device, dtype=torch.int8)

    def drawn() -> Tensor:
        return torch.randn(batch, size, size, channels, device=device, dtype=torch.float16)

    inputs = several(drawn)
    off = (kernels.group_norm_quantize(inputs[0], 32, weight, bias, 1e-5, True, step, zero).int()
           - kernels.reference(inputs[0], 32, weight, bias, 1e-5, True, step, zero).int()).abs()  # fmt: skip
    times = alternating(
        {
            "int8": lambda index: kernels.group_norm_quantize(
                inputs[index % len(inputs)], 32, weight, bias, 1e-5, True, step, zero
            ),
            "fp16": lambda index: F.silu(F.group_norm(inputs[index % len(inputs)].movedim(-1, 1), 32, weight, bias)),
        },
        rounds,
    )
    moved = 5 * inputs[0].numel()  # x twice in float16, one byte out
    return {
        "largest_difference_in_steps": int(off.max()),
        "share_that_differs": float((off > 0).float().mean()),
        "ms": {name: spread(taken) for name, taken in times.items()},
        "speedup": ratio(times["fp16"], times["int8"]),
        "bytes_per_second": moved / spread(times["int8"])["median"] * 1e3,
    }


def contest(
    with_tile: Callable[[Any], Callable[[int], Any]],
    rival: Callable[[int], Any],
    off: Callable[[Any], float],
    product: tuple[int, int, int, int],
    operations: int,
    rounds: int,
    device: torch.device,
) -> dict[str, Any]:
    """Time every tile, then the best and the default beside the rival. Nothing wrong is timed: one tile that is wrong
    stops the others. off: how far a tile is off. A tile that cannot run is left out, and said."""
    from triton.runtime.errors import OutOfResources

    from ptq4dm.backends.triton_gpu.choice import fitting_on
    from ptq4dm.backends.triton_gpu.kernels.launching import default_settings

    default = default_settings(*product[:3], device)
    tiles, errors, left_out = {}, {}, {}
    for tile in fitting_on(device, None)(*product) if device.type == "cuda" else [default]:
        try:
            tiles[tile.name], errors[tile.name] = tile, off(tile)
        except OutOfResources as failure:
            left_out[tile.name] = reason(failure)
    if wrong := {name: value for name, value in errors.items() if not value < 1e-5}:
        return {"wrong": max(wrong.values()), "tiles": wrong}
    by_tile = alternating({name: with_tile(tile) for name, tile in tiles.items()}, max(5, rounds // 4))
    medians = {name: spread(taken)["median"] for name, taken in by_tile.items()}
    best = min(medians, key=medians.__getitem__)
    times = alternating({"int8": with_tile(tiles[best]), "default": with_tile(default), "fp16": rival}, rounds)
    return {
        "error": max(errors.values()),
        "left_out": left_out,
        "tile": best,
        "default": default.name,
        "tiles_ms": medians,
        "ms": {name: spread(taken) for name, taken in times.items()},
        "speedup": ratio(times["fp16"], times["int8"]),
        "tops": operations / spread(times["int8"])["median"] / 1e9,
        "fp16_tflops": operations / spread(times["fp16"])["median"] / 1e9,
    }


def error(got: Tensor, exact: Tensor) -> float:
    """Relative L2; NaN never passes."""
    return float((got.double() - exact).norm() / exact.norm())


def table(rows: dict[str, Any]) -> None:
    """The short table."""
    peak = rows.get("peaks", {})
    if "int8_tops" in peak:
        print(f"peaks: FP16 {peak['fp16_tflops']:.0f} TFLOP/s, INT8 {peak['int8_tops']:.0f} TOP/s, "
              f"{peak['bytes_per_second'] / 1e12:.2f} TB/s")  # fmt: skip
    for name, row in rows.items():
        if "cannot" in row:
            print(f"{name:42s} cannot run: {row['cannot']}")
        elif "wrong" in row:
            print(f"{name:42s} WRONG: relative error {row['wrong']:.2e}, not timed")
        elif "speedup" in row:
            share = (
                f"{100 * row['tops'] / peak['int8_tops']:3.0f} % of the INT8 peak"
                if "tops" in row and "int8_tops" in peak
                else ""
            )
            faster = row["speedup"]
            print(f"{name:42s} {row['ms']['int8']['median']:8.3f} ms  {faster['median']:.2f}x FP16 "
                  f"({faster['low']:.2f} to {faster['high']:.2f})  {share}  {row.get('tile', '')}")  # fmt: skip


if __name__ == "__main__":
    main()
