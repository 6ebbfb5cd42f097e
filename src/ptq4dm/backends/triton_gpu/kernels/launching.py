"""How kernels are launched: where they run, and how large a tile one program takes.

The interpreter starts a program in milliseconds whatever its size, so there a tile takes all that it may.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor
from triton import knobs

INTERPRETED: Final = bool(knobs.runtime.interpret)
"""Whether the kernels were made for Triton's interpreter (TRITON_INTERPRET=1 when they were imported)."""
INTERPRETER_ROWS: Final = 1024
GROUPED: Final = 8
"""How many rows of tiles are walked together, so that their weights are read from the L2 cache."""


@dataclass(frozen=True)
class Settings:
    """The tile of a matrix product: rows x columns of the output, depth of a step; warps and pipeline stages; among how
    many programs the steps of a tile are split (`splitting`)."""

    rows: int
    columns: int
    depth: int
    warps: int = 4
    stages: int = 3
    splits: int = 1

    @property
    def name(self) -> str:
        """For people."""
        split = f", {self.splits} splits" if self.splits > 1 else ""
        return f"{self.rows}x{self.columns}x{self.depth}, {self.warps} warps, {self.stages} stages{split}"

    @property
    def shared_bytes(self) -> int:
        """What its pipeline holds in shared memory: `stages` tiles of both int8 operands."""
        return self.stages * self.depth * (self.rows + self.columns)

    @property
    def sums_a_thread(self) -> int:
        """How many int32 sums a thread holds in registers."""
        return self.rows * self.columns // (self.warps * 32)

    @property
    def slices(self) -> int:
        """In how many slices of columns a tile is finished, so that a thread's registers hold one: 32 outputs each."""
        return min(4, max(1, self.sums_a_thread // 32), self.columns // 16)


LEAST_STEPS: Final = 4
"""How many steps a program of a product keeps at least where they are split."""
CANDIDATES: Final = (
    Settings(128, 256, 128, 8, 4),
    Settings(128, 256, 64, 8, 4),
    Settings(256, 128, 64, 8, 4),
    Settings(128, 128, 128, 8, 4),
    Settings(128, 128, 64, 4, 4),
    Settings(64, 256, 64, 4, 4),
    Settings(128, 64, 128, 4, 4),
    Settings(64, 128, 128, 4, 4),
    Settings(128, 64, 64, 4, 4),
    Settings(64, 128, 64, 4, 4),
    Settings(64, 64, 128, 4, 4),
    Settings(64, 64, 64, 4, 4),
    Settings(64, 32, 128, 4, 4),
    Settings(32, 64, 128, 4, 4),
    Settings(32, 64, 64, 4, 4),
    Settings(16, 64, 128, 4, 5),
)
"""Tiles worth trying, the largest first, of all sizes with a depth that divides 320 and 576; none of them spills on
sm_90 (`benchmarks/gpu/compiled.py`; under Triton 3.6 one does, by 8 bytes: 256 x 128 x 64). A multiprocessor of Hopper
holds two of those of 4 warps, so that the tensor cores work for one while the other computes addresses: the compiler
waits for each product in INT8 before it goes on, as it does not for half precision."""


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Start a kernel where its first argument, a tensor, lies. Products and sums are not joined into one rounding, so
    results are those of torch."""
    with on_device_of(arguments[0]):
        kernel[grid](*arguments, **options, enable_fp_fusion=False)


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton starts kernels on the current GPU: make it that of a tensor."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def numbered(device: torch.device) -> torch.device:
    """The device with its number, as tensors have it: "cuda" alone is the current GPU."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device())


MEASURED: Final[dict[tuple[torch.device, int, int, int], dict[int, Settings]]] = {}
"""The tiles that were fastest, by device and (columns, channels, taps) of a product, then by its rows (`choice`). By
device, since another card may hold less shared memory than a tile takes, and be fastest with another."""
FORCED: Final[list[Settings]] = []
"""The tile that is being tried, last (`forced`)."""


@contextmanager
def forced(tile: Settings) -> Iterator[None]:
    """While open, every product is computed with that tile."""
    FORCED.append(tile)
    try:
        yield
    finally:
        FORCED.pop()


def settings_for(rows: int, columns: int, channels: int, taps: int, device: torch.device) -> Settings:
    """The tile that is forced; else that measured on this device for the nearest number of rows, if that is within a
    factor of two; else the default."""
    if FORCED:
        return FORCED[-1]
    measured = MEASURED.get((numbered(device), columns, channels, taps), {})
    near = min(measured, key=lambda other: abs(math.log(other / rows)), default=0)
    if near and max(near, rows) <= 2 * min(near, rows):
        return measured[near]
    return default_settings(rows, columns, channels, device)


def default_settings(rows: int, columns: int, depth: int, device: torch.device) -> Settings:
    """A tile for a (rows x depth) by (depth x columns) product that nothing was measured for.

    The largest that fits the shared memory and still gives every multiprocessor one; the smallest where none does.
    """
    if INTERPRETED:
        return Settings(
            min(INTERPRETER_ROWS, power_of_two(rows)),
            min(128, power_of_two(columns)),
            min(128, max(32, power_of_two(depth))),
        )
    fitting = fitting_settings(rows, columns, depth, shared_memory(device), sums_a_thread(device))
    return largest_that_fills(rows, columns, fitting, multiprocessors(device))


def largest_that_fills(rows: int, columns: int, settings: Sequence[Settings], processors: int) -> Settings:
    """The first whose tiles are as many as the multiprocessors; the last, the smallest, if none are."""
    return next(
        (one for one in settings if tiles(rows, one.rows) * tiles(columns, one.columns) >= processors), settings[-1]
    )


def fitting_settings(rows: int, columns: int, depth: int, shared: int, sums: int) -> list[Settings]:
    """The candidates that shared memory and registers hold and that are not more than twice as large as the problem.

    shared: bytes a program may take. sums: how many a thread may hold.
    """
    fitting = [one for one in CANDIDATES if one.shared_bytes <= shared and one.sums_a_thread <= sums]
    snug = [
        one
        for one in fitting
        if one.rows < 2 * max(rows, 16) and one.columns < 2 * max(columns, 16) and one.depth < 2 * max(depth, 64)
    ]
    return snug or fitting[-1:]


def with_splits(settings: Sequence[Settings], product: tuple[int, int, int, int], processors: int) -> list[Settings]:
    """The settings, and those of which the tiles are too few to fill the card once more, with their steps split.

    product: its rows, columns, channels and taps.
    """
    rows, columns, channels, taps = product
    split = []
    for one in settings:
        programs, splits = tiles(rows, one.rows) * tiles(columns, one.columns), 2
        while programs * splits <= processors and splits * LEAST_STEPS <= tiles(channels, one.depth) * taps:
            splits *= 2
        if splits > 2:
            split.append(replace(one, splits=splits // 2))
    return [*settings, *split]


def tiles(size: int, tile: int) -> int:
    """How many tiles cover a size: `triton.cdiv`, in integers of Python."""
    return -(-size // tile)


def power_of_two(size: int, smallest: int = 16) -> int:
    """The next power of two, at least `smallest`."""
    return max(smallest, 1 << (size - 1).bit_length())


@cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may take on a device."""
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


@cache
def sums_a_thread(device: torch.device) -> int:
    """How many sums a thread may hold: on Hopper operands stay in shared memory, which leaves room for 128; where they
    pass through registers, 128 spill (read from the compiler's report for sm_80 and sm_100)."""
    return 128 if torch.cuda.get_device_capability(device)[0] == 9 else 64


@cache
def multiprocessors(device: torch.device) -> int:
    """How many multiprocessors a device has."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def dense(x: Tensor | None) -> Tensor | None:
    """A tensor as kernels read it that take no strides."""
    return None if x is None else x.contiguous()


def rows_of(scale: Tensor | None, shift: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Scale and shift (samples, channels) with one stride between samples for both: parts of one tensor, as networks
    have them, need no copy."""
    if scale is None or shift is None or (scale.stride() == shift.stride() and scale.stride(-1) == 1):
        return scale, shift
    return scale.contiguous(), shift.contiguous()


@dataclass(frozen=True)
class Walk:
    """How a kernel walks a tensor (..., channels): as samples x places x channels, with the strides of each."""

    tensor: Tensor
    samples: int
    places: int
    strides: tuple[int, int, int]


def walk(x: Tensor) -> Walk:
    """The walk over `x`; over a contiguous copy where two strides cannot say how its leading axes lie."""
    axes: list[tuple[int, int]] = []  # (size, stride), those that lie behind one another joined
    for size, stride in zip(reversed(x.shape[:-1]), reversed(x.stride()[:-1])):
        if size == 1:
            continue
        if axes and stride == axes[-1][0] * axes[-1][1]:
            axes[-1] = (size * axes[-1][0], axes[-1][1])
        else:
            axes.append((size, stride))
    if len(axes) > 2:
        return walk(x.contiguous())
    (places, along), (samples, between) = (axes + [(1, 0)] * 2)[:2]
    return Walk(x, samples, places, (between, along, x.stride(-1)))


def by_sample(x: Tensor) -> Walk:
    """The walk over x (samples, *spatial, channels) that keeps samples apart."""
    row = x[0]
    way = walk(row)
    if way.samples > 1 or way.tensor is not row:  # the places of a sample do not lie at one stride
        return by_sample(x.contiguous())
    return Walk(x, x.shape[0], way.places, (x.stride(0), way.strides[1], x.stride(-1)))


def tile_of(places: int, channels: int, elements: int) -> tuple[int, int]:
    """Places and channels of one program of a kernel that works element by element, both powers of two."""
    wide = min(power_of_two(channels), 128)
    most = INTERPRETER_ROWS * 64 if INTERPRETED else elements
    return min(power_of_two(places), most // wide), wide
