"""Which tile a product gets, and how tensors are walked: pure rules, so no GPU is needed."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu.kernels import group_norm, launching, quantize
from ptq4dm.backends.triton_gpu.kernels.launching import (
    CANDIDATES,
    Settings,
    fitting_settings,
    largest_that_fills,
    settings_for,
    tiles,
    walk,
    with_splits,
)

A100, H100, RTX3090 = 166_912, 232_448, 101_376
"""Bytes of shared memory that a program may take."""


@pytest.mark.parametrize(("shared", "sums"), [(A100, 64), (H100, 128), (RTX3090, 64)])
@pytest.mark.parametrize("problem", [(1, 1, 1), (65536, 1280, 2560), (130, 17, 5), (8, 1280, 320)])
def test_a_tile_fits_the_card_and_the_problem(shared, sums, problem):
    fitting = fitting_settings(*problem, shared, sums)
    assert fitting
    for one in fitting:
        assert one.shared_bytes <= shared and one.sums_a_thread <= sums
        assert one.slices in (1, 2, 4) and one.columns // one.slices >= 16


def test_a_small_problem_fills_the_card_rather_than_the_tile():
    large = largest_that_fills(262144, 1280, fitting_settings(262144, 1280, 1280, H100, 128), 132)
    small = largest_that_fills(1024, 320, fitting_settings(1024, 320, 320, H100, 128), 132)
    assert large == CANDIDATES[0] and tiles(1024, small.rows) * tiles(320, small.columns) > 100
    assert largest_that_fills(16, 16, fitting_settings(16, 16, 64, H100, 128), 132).rows <= 64


def test_depths_of_320_and_576_channels_are_divided_by_tiles_of_all_sizes():
    for channels in (320, 576, 960):
        fitting = fitting_settings(65536, 320, channels, H100, 128)
        even = {(one.rows, one.columns) for one in fitting if channels % one.depth == 0}
        assert even >= {(128, 256), (128, 128), (128, 64), (64, 128), (64, 64), (32, 64)}


def test_a_tile_that_was_measured_on_one_card_is_not_taken_on_another(monkeypatch):
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    large, product = CANDIDATES[0], (65536, 1280, 1280, 9)
    monkeypatch.setattr(launching, "INTERPRETED", False)
    monkeypatch.setattr(launching, "shared_memory", lambda device: {first: H100, second: RTX3090}[device])
    monkeypatch.setattr(launching, "sums_a_thread", lambda device: {first: 128, second: 64}[device])
    monkeypatch.setattr(launching, "multiprocessors", lambda device: 100)
    monkeypatch.setattr(launching, "MEASURED", {(first, 1280, 1280, 9): {65536: large}})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert settings_for(*product, first) == settings_for(*product, torch.device("cuda")) == large
    assert large.shared_bytes == 196_608 > RTX3090 >= settings_for(*product, second).shared_bytes


def test_steps_are_split_where_tiles_are_too_few_for_the_card():
    """8 x 8 places, 1280 channels in and out, 3 x 3: at batch 1 ten tiles of 64 x 128 for 132 multiprocessors."""
    tile = Settings(64, 128, 128, 4, 4)
    assert with_splits([tile], (64, 1280, 1280, 9), 132) == [tile, replace(tile, splits=8)]
    assert with_splits([tile], (64, 1280, 1280, 1), 132) == [tile, replace(tile, splits=2)]  # ten steps, four each
    assert with_splits([tile], (64, 1280, 512, 1), 132) == [tile]
    assert with_splits([tile], (8192, 1280, 1280, 9), 132) == [tile]


def elements(x):
    """The tensor's numbers as a kernel with the walk's strides would read them."""
    way = walk(x)
    return way.tensor.as_strided((way.samples, way.places, x.shape[-1]), way.strides, way.tensor.storage_offset())


@pytest.mark.parametrize(
    "x",
    [
        torch.arange(120).view(2, 3, 4, 5),
        torch.arange(120).view(2, 5, 3, 4).movedim(1, -1),
        torch.arange(240).view(2, 6, 4, 5)[:, ::2],
        torch.arange(120).view(2, 3, 4, 5).transpose(1, 2),
        torch.arange(5),
        torch.arange(20).view(4, 5).T,
        torch.arange(3).view(1, 1, 3).expand(2, 4, 3),
    ],
    ids=["contiguous", "channels first", "every second row", "transposed", "vector", "matrix", "expanded"],
)
def test_a_walk_meets_every_number_once_in_order(x):
    assert torch.equal(elements(x).flatten(), x.flatten())


def test_grids_end_at_no_number_of_samples(monkeypatch):
    """CUDA takes 65,535 programs along all axes of a grid but the first."""
    grids = []
    one, zero = torch.ones(2), torch.tensor(0, dtype=torch.int8)
    for module in (quantize, group_norm):
        monkeypatch.setattr(module, "launch", lambda kernel, grid, *arguments, **options: grids.append(grid))
    x = torch.empty(70_000, 4, 3, 2)[:, :3]  # places and samples lie apart
    quantize.quantize(x, one[:1], zero)
    for parts in (1, 4):
        group_norm.group_norm_quantize(x, 2, one, one, 1e-5, True, one[:1], zero, parts=parts)
    assert len(grids) == 4 and all(grid[0] >= 70_000 and max(grid[1:]) <= 65_535 for grid in grids)
