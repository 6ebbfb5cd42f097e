"""What the compiler makes of the kernels, with no GPU at hand: instructions, registers, spills, for any tile and card.

    python benchmarks/gpu/compiled.py [--capability 80 90]

Triton compiles for a card that is not there, and its own ptxas and cuobjdump tell what came of it. A tile that spills,
or a matrix product on another instruction than the INT8 one of the card, is slow whatever else is done.
"""

import argparse
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ptq4dm.backends.triton_gpu.geometry import Geometry
from ptq4dm.backends.triton_gpu.kernels.convolution import convolution_kernel
from ptq4dm.backends.triton_gpu.kernels.geglu import geglu_kernel
from ptq4dm.backends.triton_gpu.kernels.gelu import gelu_kernel
from ptq4dm.backends.triton_gpu.kernels.group_norm import group_norm_kernel, moments_kernel
from ptq4dm.backends.triton_gpu.kernels.launching import CANDIDATES, GROUPED, Settings
from ptq4dm.backends.triton_gpu.kernels.layer_norm import layer_norm_kernel
from ptq4dm.backends.triton_gpu.kernels.linear import linear_kernel
from ptq4dm.backends.triton_gpu.kernels.quantize import quantize_kernel

INSTRUCTIONS = ("wgmma.mma_async", "mma.sync", "cp.async.cg", "ld.global", "st.global", "ld.local", "st.local")
SCALES = ("input_scale", "weight_scale", "bias")
POINTERS = {"q": "*i8", "weight": "*i8", "zero_point": "*i8", "weight_sums": "*i32", **dict.fromkeys(SCALES, "*fp32")}
ALIGNED = {"rows", "channels", "columns", "depth", "split"}
ALIGNED |= {f"{tensor}_{axis}" for tensor in ("stride", "beside") for axis in ("sample", "place")}


@dataclass(frozen=True)
class Report:
    """One compiled kernel: how often each instruction stands in it; registers, stack of a thread; shared bytes."""

    instructions: dict[str, int]
    registers: int
    stack: int
    shared: int


def compiled(
    kernel, pointers: dict[str, str], numbers: tuple[str, ...], fixed: dict, capability: int, ones: bool, **options
) -> Report:
    """Compile one kernel for a card. pointers: types by argument; numbers: its int32 arguments; fixed: all others.

    ones: all numbers are 1, which Triton makes constants of.
    """
    kinds = {**pointers, **({} if ones else dict.fromkeys(numbers, "i32"))}
    fixed = {"band": None, "SEVERAL": False, "samples_a_band": 1} | fixed | (dict.fromkeys(numbers, 1) if ones else {})
    fixed = {name: value for name, value in fixed.items() if name in kernel.arg_names}
    signature = {name: kinds.get(name, "constexpr") for name in kernel.arg_names}
    aligned = [index for index, name in enumerate(kernel.arg_names) if name in pointers or name in ALIGNED & set(kinds)]
    attributes = {(index,): [["tt.divisibility", 16]] for index in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=attributes)
    target = GPUTarget("cuda", capability, 32)
    return report(triton.compile(source, target=target, options={"enable_fp_fusion": False, **options}))


def report(built) -> Report:
    """What PTX and machine code of a compiled kernel say."""
    words = Counter(word for line in built.asm["ptx"].splitlines() for word in line.split())
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(built.asm["cubin"])
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    numbers = {key: int(value) for key, _, value in (word.partition(":") for word in usage) if value.isdecimal()}
    found = {word: count for word, count in words.items() if word.startswith(INSTRUCTIONS)}
    return Report(found, numbers["REG"], numbers["STACK"], built.metadata.shared)


CHANNELS_LAST = {"stride_channel": 1, "beside_channel": 1}
OF_TWO = ("split", "stride_sample", "stride_place", "beside_sample", "beside_place")
"""Numbers of normalisations that read two tensors."""


def convolution(capability: int, tile: Settings, geometry: Geometry, fused: bool, ones: bool = False) -> Report:
    """A 2d convolution in float16; fused: with time embedding and residual."""
    pointers = {**POINTERS, "out": "*fp16"} | ({"embedding": "*fp16", "residual": "*fp16"} if fused else {})
    pointers |= {"workspace": "*i32"} if tile.splits > 1 else {}
    numbers = ("rows", "channels", "columns", "height", "width", "out_height", "out_width")
    axes = {
        f"{name}_{axis}": value
        for name in ("taps", "stride", "padding", "dilation", "most")
        for axis, value in zip("dhw", getattr(geometry, name), strict=True)
    }
    fixed = {"depth": 1, "out_depth": 1, **{name.upper(): value for name, value in axes.items()}}
    fixed |= {"UPSAMPLE": geometry.upsample, **of_tile(tile), **absent(convolution_kernel, pointers)}
    return compiled(convolution_kernel, pointers, numbers, fixed, capability, ones, **of_launch(tile))


def linear(capability: int, tile: Settings, fused: bool = False, ones: bool = False) -> Report:
    """A linear layer in float16; fused: with a residual."""
    pointers = {**POINTERS, "out": "*fp16"} | ({"residual": "*fp16"} if fused else {})
    pointers |= {"workspace": "*i32"} if tile.splits > 1 else {}
    fixed = {**of_tile(tile), **absent(linear_kernel, pointers)}
    numbers = ("rows", "depth", "columns", "rows_a_sample")
    return compiled(linear_kernel, pointers, numbers, fixed, capability, ones, **of_launch(tile))


def group_norm(
    capability: int, in_group: int, groups: int, places: int, parts: int = 1, pair: bool = False, ones: bool = False
) -> Report:
    """Group normalisation with SiLU and rounding of channels-last data in float16; parts: of the places; pair: of two
    tensors side by side, which are also rounded as they are."""
    pointers = {"x": "*fp16", "weight": "*fp16", "bias": "*fp16", "step": "*fp32", "zero_point": "*i8", "q": "*i8"}
    pointers |= {"partial": "*fp32"} if parts > 1 else {}
    second = {"beside": "*fp16", "own": "*i8", "own_step": "*fp32", "own_zero_point": "*i8"}
    pointers |= second if pair else {}
    fixed = {
        "scale": None,
        "shift": None,
        "eps": 1e-5,
        "stride_scale": 0,
        "IN_GROUP": in_group,
        "SILU": True,
        "PER_CHANNEL": False,
    }
    fixed |= {"bands": 1, "between": 0, "ROUNDINGS": 1, "PARTS": parts, "OWN_PER_CHANNEL": False} | (
        {} if parts > 1 else {"partial": None}
    )
    fixed |= {"PLACES": places, "GROUPS": groups, "CHANNELS": triton.next_power_of_2(in_group)}
    fixed |= CHANNELS_LAST | ({} if pair else dict.fromkeys(second))
    numbers = ("places", "part_size", "channels", "groups", *OF_TWO)
    return compiled(group_norm_kernel, pointers, numbers, fixed, capability, ones, num_warps=4)


def moments(
    capability: int, in_group: int, groups: int, places: int, parts: int, pair: bool = False, ones: bool = False
) -> Report:
    """Moments of parts of the places, of channels-last data in float16; pair: of two tensors side by side."""
    fixed = {"IN_GROUP": in_group, "PARTS": parts, "PLACES": places, "GROUPS": groups}
    fixed |= {"CHANNELS": triton.next_power_of_2(in_group), **CHANNELS_LAST} | ({} if pair else {"beside": None})
    pointers = {"x": "*fp16", "partial": "*fp32"} | ({"beside": "*fp16"} if pair else {})
    numbers = ("places", "part_size", "groups", *OF_TWO)
    return compiled(moments_kernel, pointers, numbers, fixed, capability, ones, num_warps=4)


def quantize(capability: int, ones: bool = False) -> Report:
    """Rounding alone, of channels-last data in float16 with a step a channel."""
    pointers = {"x": "*fp16", "step": "*fp32", "zero_point": "*i8", "q": "*i8"}
    numbers = ("places", "channels", "stride_sample", "stride_place")
    fixed = {"stride_channel": 1, "PER_CHANNEL": True, "PLACES": 32, "CHANNELS": 128}
    return compiled(quantize_kernel, pointers, numbers, fixed, capability, ones, num_warps=4)


def layer_norm(capability: int, channels: int, roundings: int = 1, ones: bool = False) -> Report:
    """Layer normalisation, scale and shift of the time-step, and rounding (so often), in float16."""
    pointers = {"x": "*fp16", "scale": "*fp16", "shift": "*fp16", "step": "*fp32", "zero_point": "*i8", "q": "*i8"}
    numbers = ("rows", "channels", "rows_a_sample", "between")
    fixed = {"weight": None, "bias": None, "eps": 1e-5, "PER_CHANNEL": False, "stride_scale": channels}
    fixed |= {"ROWS": 1, "CHANNELS": triton.next_power_of_2(channels), "bands": 1, "ROUNDINGS": roundings}
    return compiled(layer_norm_kernel, pointers, numbers, fixed, capability, ones, num_warps=4)


def geglu(capability: int, channels: int, ones: bool = False) -> Report:
    """A gated GELU and rounding, in float16."""
    pointers = {"x": "*fp16", "step": "*fp32", "zero_point": "*i8", "q": "*i8"}
    fixed = {"PER_CHANNEL": True, "ROWS": 16, "CHANNELS": min(128, triton.next_power_of_2(channels))}
    return compiled(geglu_kernel, pointers, ("rows", "channels", "rows_a_sample"), fixed, capability, ones, num_warps=4)


def gelu(capability: int, channels: int, ones: bool = False) -> Report:
    """GELU as tanh approximates it, and rounding, in float16."""
    pointers = {"x": "*fp16", "step": "*fp32", "zero_point": "*i8", "q": "*i8"}
    fixed = {"TANH": True, "PER_CHANNEL": True, "ROWS": 32, "CHANNELS": min(128, triton.next_power_of_2(channels))}
    return compiled(gelu_kernel, pointers, ("rows", "channels", "rows_a_sample"), fixed, capability, ones, num_warps=4)


def absent(kernel, pointers: dict[str, str]) -> dict[str, None]:
    """The optional tensors that are not given."""
    optional = ("embedding", "residual", "out_step", "out_zero_point", "workspace")
    return {name: None for name in optional if name not in pointers and name in kernel.arg_names}


def of_tile(tile: Settings) -> dict:
    """The arguments of a matrix product that its tile fixes."""
    sizes = {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth, "SLICES": tile.slices}
    return {**sizes, "EVEN": True, "SPLITS": tile.splits, "PER_CHANNEL": False, "GROUPED": GROUPED}


def of_launch(tile: Settings) -> dict:
    """The launch options of a tile."""
    return {"num_warps": tile.warps, "num_stages": tile.stages}


def main() -> None:
    own = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    own.add_argument("--capability", type=int, nargs="+", default=[80, 90], help="compute capabilities (default 80 90)")
    args = own.parse_args()
    three = Geometry((1, 3, 3), padding=(0, 1, 1))
    print("convolution 3 x 3 with time embedding and residual; linear with residual")
    for capability in args.capability:
        for tile in CANDIDATES:
            for name, one in (
                ("convolution", convolution(capability, tile, three, True)),
                ("linear", linear(capability, tile, True)),
            ):
                product = next((word for word in one.instructions if "mma" in word), "no matrix instruction")
                size = f"{tile.rows}x{tile.columns}x{tile.depth} {tile.warps} warps {tile.stages} stages"
                print(f"sm_{capability} {name:12s} {size:34s} {one.registers:3d} registers {one.stack:5d} stack "
                      f"{one.shared:6d} shared  {product}")  # fmt: skip


if __name__ == "__main__":
    main()
