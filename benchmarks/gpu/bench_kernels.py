"""Each kernel on a GPU: correct first, then beside cuDNN and cuBLAS in FP16, and its share of the card's measured peak.

    python benchmarks/gpu/bench_kernels.py [--out DIR] [--deadline SECONDS] [--again] [--rehearse]

NOT YET RUN ON A GPU. Written to run unattended: one command, ten minutes, resumable (a second run goes on where the
first ended). Every tile that fits is timed for every product, so one run tells what to tune. Writes JSON, prints a
table last.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from on_gpu import (
    AGAIN,
    Clock,
    Results,
    alternating,
    keep_compile_caches,
    parser,
    ratio,
    reason,
    require_answer,
    require_gpu,
    spread,
)
from torch import Tensor

from ptq4dm.backends.triton_gpu.geometry import Geometry

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
FUSED = [(8, 64, 320, 320, 3, 1), (256, 16, 256, 256, 3, 1)]  # with embedding and residual
ALSO = [(8, 32, 640, 640, 3, 1)]  # in bfloat16; with its output rounded for a next layer
UPSAMPLED = [(8, 32, 640, 640, 3, 1), (8, 16, 1280, 1280, 3, 1)]  # of the small picture
WINDOWS = [(8, (1, 1, 4096), 512, 512, (1, 1, 3)), (2, (16, 32, 32), 320, 320, (3, 1, 1))]  # 1d; in time
LAYER_NORMS = [(8 * 4096, 320), (8 * 256, 1280), (16 * 256, 1152)]
GATES = [(8 * 4096, 1280), (8 * 1024, 2560), (8 * 256, 5120)]
ACTIVATIONS = [(16 * 256, 4608)]
ROUNDED = [(256, 16, 256), (8, 64, 320)]
NORMS = [(256, 32, 128), (256, 16, 256), (128, 64, 128), (8, 64, 320), (8, 16, 1280), (1, 64, 320)]
NORMS_OF_TWO = [(256, 32, 128), (128, 64, 128), (8, 32, 640)]  # channels of each of the two
MOST_OFF = 0.01
"""What share of integers may be another, by a step: moments are summed in another order."""
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
        print(f"{name}: {row.get('cannot', 'measured')}", flush=True)
        require_answer(name)
    table(results.rows)


def pieces(rehearse: bool) -> dict[str, Callable[[torch.device, int], dict[str, Any]]]:
    """What is measured, by name: (device, rounds) -> row."""
    size, copied = (64, 1 << 12) if rehearse else (PEAK_SIZE, COPIED)
    shapes = REHEARSED if rehearse else SHAPES
    return {"peaks": lambda device, rounds: peaks(device, rounds, size, copied)} | {
        f"{kind} {one}": partial(KINDS[kind], one) for kind, ones in shapes.items() for one in ones
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


def channels_second(x: Tensor) -> Tensor:
    """(batch, *spatial, channels) as (batch, channels, *spatial), a view."""
    return x.movedim(-1, 1)


def several(one: Callable[[], Tensor]) -> list[Tensor]:
    """A few inputs; that the cache holds none of them is `on_gpu.by_events`'s work."""
    return [one() for _ in range(3)]


@dataclass(frozen=True)
class Epilogue:
    """What follows the sums of a convolution: an embedding and a residual or none, and what is stored."""

    fused: bool = False
    dtype: torch.dtype = torch.float16
    rounded: bool = False


PLAIN = Epilogue()


def convolution(
    shape: tuple[int, ...], device: torch.device, rounds: int, upsample: int = 1, epilogue: Epilogue = PLAIN
) -> dict[str, Any]:
    """One 2d shape; upsample: of a picture read so much larger."""
    batch, size, channels, out, taps, stride = shape
    window = Geometry((1, taps, taps), (1, stride, stride), (0, taps // 2, taps // 2), upsample=upsample)
    return of_window(batch, (1, size, size), channels, out, window, epilogue, device, rounds)


def other_window(shape: tuple[Any, ...], device: torch.device, rounds: int) -> dict[str, Any]:
    """A convolution in one axis, or in three."""
    batch, size, channels, out, taps = shape
    padding = tuple(count // 2 for count in taps)
    return of_window(batch, size, channels, out, Geometry(taps, padding=padding), PLAIN, device, rounds)


def of_window(
    batch: int,
    size: tuple[int, int, int],
    channels: int,
    out: int,
    window: Geometry,
    epilogue: Epilogue,
    device: torch.device,
    rounds: int,
) -> dict[str, Any]:
    """One shape: every tile by itself, then the best beside cuDNN in turns."""
    from ptq4dm.backends.triton_gpu.kernels import convolution as kernels
    from ptq4dm.backends.triton_gpu.packing import tap_sums

    taps, places, kind = math.prod(window.taps), window.out_size(size), epilogue.dtype
    weight = torch.randint(-127, 128, (out, taps, channels), device=device, dtype=torch.int8)
    sums = tap_sums(weight.cpu(), window.taps, window.most).to(device)
    zero, one = torch.tensor(-37, device=device, dtype=torch.int8), torch.tensor(0.01, device=device)
    scale, bias = torch.rand(out, device=device) / 100, torch.randn(out, device=device)
    embedding = torch.randn(batch, out, device=device).to(kind) if epilogue.fused else None
    residual = torch.randn(batch, *places, out, device=device).to(kind) if epilogue.fused else None

    def run(q: Tensor, dtype: torch.dtype = kind, tile: Any = None, step: Tensor | None = None) -> Tensor:
        added = [None if item is None else item[: len(q)] for item in (embedding, residual)]
        rounding = {} if step is None else {"out_step": step, "out_zero_point": zero}
        return kernels.convolution(
            q, weight, sums, one, zero, scale, window, dtype, bias, *added, **rounding, settings=tile
        )

    def drawn() -> Tensor:
        return torch.randint(-128, 128, (batch, *size, channels), device=device, dtype=torch.int8)

    few = drawn()[:2]
    exact = kernels.reference(few, weight, zero, window) * (one * scale).double() + bias.double()
    if embedding is not None and residual is not None:
        exact = exact + embedding[:2, None, None, None] + residual[:2]
    step = (exact.abs().amax() / 100).float() if epilogue.rounded else None
    inputs, axes = several(drawn), 3 - sum(count == 1 for count in size)
    pictures = [channels_second(q.reshape(batch, *size[3 - axes :], channels)).to(kind) for q in inputs]
    kernel = channels_second((weight * scale[:, None, None]).to(kind).view(out, *window.taps[3 - axes :], channels))
    convolve, held = (F.conv1d, F.conv2d, F.conv3d)[axes - 1], bias.to(kind)
    rest = residual if residual is None else channels_second(residual.reshape(batch, *places[3 - axes :], out))

    def in_float(x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=float(window.upsample)) if window.upsample > 1 else x
        y = convolve(x, kernel, held, window.stride[3 - axes :], window.padding[3 - axes :])
        y = y if embedding is None or rest is None else y + embedding[..., None, None] + rest
        return y if step is None else as_bytes(y, step, zero)

    def off(tile: Any) -> float:
        far = error(run(few, torch.float32, tile), exact)
        return far if step is None else max(far, rounded_wrong(run(few, kind, tile, step), as_bytes(exact, step, zero)))

    rival = compiled(in_float, device) if epilogue.fused or epilogue.rounded or window.upsample > 1 else in_float
    rows = batch * math.prod(places)
    return contest(
        lambda tile: lambda index: run(inputs[index % len(inputs)], tile=tile, step=step),
        lambda index: rival(pictures[index % len(pictures)]),
        off,
        (rows, out, channels, taps),
        2 * rows * out * channels * taps,
        rounds,
        device,
    )


def as_bytes(y: Tensor, step: Tensor, zero: Tensor) -> Tensor:
    """Integers of a next layer, by torch."""
    return (torch.round(y / step) + zero).clamp(-128, 127).to(torch.int8)


def rounded_wrong(got: Tensor, exact: Tensor) -> float:
    """0 where integers differ by a step at most, in one of a thousand places at most; else by how much."""
    off = (got.int() - exact.int()).abs()
    return 0.0 if off.max() <= 1 and (off > 0).float().mean() <= 1e-3 else float(off.max())


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
    """GroupNorm, SiLU and rounding in one kernel, beside compiled GroupNorm and SiLU in FP16."""
    from ptq4dm.backends.triton_gpu.kernels import group_norm as kernels

    batch, size, channels = shape
    weight, bias = torch.randn(channels, device=device).half(), torch.randn(channels, device=device).half()
    rounding = rounding_of(channels, -100, device)
    rival = compiled(lambda x: F.silu(F.group_norm(channels_second(x), 32, weight, bias)), device)
    options = (32, weight, bias, 1e-5, True, *rounding)
    return beside(
        (batch, size, size, channels),
        lambda x: kernels.group_norm_quantize(x, *options),
        lambda x: kernels.reference(x, *options),
        rival,
        5,
        rounds,
        device,
    )


def norm_of_two(shape: tuple[int, ...], device: torch.device, rounds: int) -> dict[str, Any]:
    """The same of two tensors side by side, rounded as they are too, beside compiled joining, GroupNorm and SiLU in
    FP16, which gives what it joined and what it normalised."""
    from ptq4dm.backends.triton_gpu.kernels import group_norm as kernels

    batch, size, channels = shape
    weight, bias = (torch.randn(2 * channels, device=device).half() for _ in range(2))
    rounding = rounding_of(2 * channels, -100, device)
    options = (32, weight, bias, 1e-5, True, *rounding)

    def in_float(x: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([channels_second(x[0]), channels_second(x[1])], dim=1)
        return joined, F.silu(F.group_norm(joined, 32, weight, bias))

    def kernel(x: Tensor) -> Tensor:
        own = torch.empty((batch, size, size, 2 * channels), device=device, dtype=torch.int8)
        return kernels.group_norm_quantize(x[0], *options, beside=x[1], own=(own, *rounding))

    return beside(
        (2, batch, size, size, channels),
        kernel,
        lambda x: kernels.reference(torch.cat([x[0], x[1]], dim=-1), *options),
        compiled(in_float, device),
        6,
        rounds,
        device,
    )


def layer_norm(shape: tuple[int, ...], device: torch.device, rounds: int) -> dict[str, Any]:
    """LayerNorm and rounding in one kernel, beside compiled LayerNorm in FP16."""
    from ptq4dm.backends.triton_gpu.kernels import layer_norm as kernels

    weight, bias = torch.randn(shape[-1], device=device).half(), torch.randn(shape[-1], device=device).half()
    rounding = rounding_of(shape[-1], 0, device)
    options = (weight, bias, 1e-5, *rounding)
    return beside(
        shape,
        lambda x: kernels.layer_norm_quantize(x, *options),
        lambda x: kernels.reference(x, *options),
        compiled(lambda x: F.layer_norm(x, shape[-1:], weight, bias), device),
        3,
        rounds,
        device,
    )


def gate(shape: tuple[int, ...], device: torch.device, rounds: int) -> dict[str, Any]:
    """A gated GELU and rounding in one kernel, beside the compiled gate in FP16. shape: that of the result."""
    from ptq4dm.backends.triton_gpu.kernels import geglu as kernels

    rounding = rounding_of(shape[1], 0, device)

    def in_float(x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)

    return beside(
        (shape[0], 2 * shape[1]),
        lambda x: kernels.geglu_quantize(x, *rounding),
        lambda x: kernels.reference(x, *rounding),
        compiled(in_float, device),
        2.5,
        rounds,
        device,
    )


def activation(shape: tuple[int, ...], device: torch.device, rounds: int) -> dict[str, Any]:
    """GELU as tanh approximates it and rounding in one kernel, beside the compiled activation in FP16."""
    from ptq4dm.backends.triton_gpu.kernels import gelu as kernels

    rounding = (torch.tensor(0.03, device=device), torch.tensor(0, device=device, dtype=torch.int8))
    return beside(
        shape,
        lambda x: kernels.gelu_quantize(x, True, *rounding),
        lambda x: kernels.reference(x, True, *rounding),
        compiled(lambda x: F.gelu(x, approximate="tanh"), device),
        3,
        rounds,
        device,
    )


def rounding_alone(shape: tuple[int, ...], device: torch.device, rounds: int) -> dict[str, Any]:
    """Rounding to integers, beside a copy in FP16, which has no such step: what it costs."""
    from ptq4dm.backends.triton_gpu.kernels import quantize as kernels

    batch, size, channels = shape
    rounding = rounding_of(channels, 0, device)
    return beside(
        (batch, size, size, channels),
        lambda x: kernels.quantize(x, *rounding),
        lambda x: kernels.reference(x, *rounding),
        lambda x: x.clone(),
        3,
        rounds,
        device,
    )


def rounding_of(channels: int, zero_point: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A step a channel, as smoothed layers have it, and a zero point."""
    return torch.rand(channels, device=device) / 50 + 0.02, torch.tensor(zero_point, device=device, dtype=torch.int8)


def beside(
    shape: tuple[int, ...],
    kernel: Callable[[Tensor], Tensor],
    reference: Callable[[Tensor], Tensor],
    rival: Callable[[Tensor], Any],
    bytes_a_number: float,
    rounds: int,
    device: torch.device,
) -> dict[str, Any]:
    """A kernel that rounds, beside its rival; not timed where integers are off by more than a step, or often."""
    inputs = several(lambda: torch.randn(shape, device=device, dtype=torch.float16))
    off = (kernel(inputs[0]).int() - reference(inputs[0]).int()).abs()
    largest, share = int(off.max()), float((off > 0).float().mean())
    if largest > 1 or share > MOST_OFF:
        return {"wrong": share, "largest_difference_in_steps": largest}
    times = alternating(
        {
            "int8": lambda index: kernel(inputs[index % len(inputs)]),
            "fp16": lambda index: rival(inputs[index % len(inputs)]),
        },
        rounds,
    )
    return {
        "largest_difference_in_steps": largest,
        "share_that_differs": share,
        "ms": {name: spread(taken) for name, taken in times.items()},
        "speedup": ratio(times["fp16"], times["int8"]),
        "bytes_per_second": bytes_a_number * inputs[0].numel() / spread(times["int8"])["median"] * 1e3,
    }


def compiled(call: Callable[[Tensor], Any], device: torch.device) -> Callable[[Tensor], Any]:
    """A rival as `torch.compile` makes it; in a rehearsal as it is."""
    return torch.compile(call) if device.type == "cuda" else call


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


KINDS = {
    "convolution": convolution,
    "fused convolution": partial(convolution, epilogue=Epilogue(fused=True)),
    "convolution in bfloat16": partial(convolution, epilogue=Epilogue(dtype=torch.bfloat16)),
    "convolution to INT8": partial(convolution, epilogue=Epilogue(rounded=True)),
    "upsampled convolution": partial(convolution, upsample=2),
    "convolution in other axes": other_window,
    "linear": linear,
    "norm": norm,
    "norm of two": norm_of_two,
    "layer norm": layer_norm,
    "rounding": rounding_alone,
    "gate": gate,
    "activation": activation,
}
SHAPES: dict[str, list[Any]] = {
    "convolution": CONVOLUTIONS,
    "linear": LINEARS,
    "norm": NORMS,
    "norm of two": NORMS_OF_TWO,
    "fused convolution": FUSED,
    "convolution in bfloat16": ALSO,
    "convolution to INT8": ALSO,
    "upsampled convolution": UPSAMPLED,
    "convolution in other axes": WINDOWS,
    "layer norm": LAYER_NORMS,
    "rounding": ROUNDED,
    "gate": GATES,
    "activation": ACTIVATIONS,
}
REHEARSED: dict[str, list[Any]] = {
    "convolution": [(2, 4, 16, 16, 3, 1)],
    "linear": [(8, 32, 16)],
    "norm": [(1, 4, 32)],
    "norm of two": [(1, 4, 48)],
    "fused convolution": [(2, 3, 8, 8, 3, 1)],
    "convolution in bfloat16": [(2, 3, 8, 8, 3, 1)],
    "convolution to INT8": [(2, 3, 8, 8, 3, 1)],
    "upsampled convolution": [(1, 2, 8, 8, 3, 1)],
    "convolution in other axes": [(1, (1, 1, 5), 8, 8, (1, 1, 3)), (1, (3, 2, 2), 8, 8, (3, 1, 1))],
    "layer norm": [(4, 8)],
    "rounding": [(1, 3, 8)],
    "gate": [(4, 8)],
    "activation": [(4, 8)],
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
