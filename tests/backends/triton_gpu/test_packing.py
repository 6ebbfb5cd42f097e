"""Sums of taps against convolutions of ones: what the zero point adds at every place of a picture."""

import pytest
import torch
import torch.nn.functional as F
from hard_cases import bytes_of

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu.geometry import Geometry
from ptq4dm.backends.triton_gpu.packing import LARGEST_DEPTH, packed, tap_sums


def test_packed_weights_have_the_channels_of_a_tap_side_by_side():
    weight = bytes_of(3, 5, 2, 2)
    assert packed(weight).shape == (3, 4, 5) and torch.equal(packed(weight)[1, 3], weight[1, :, 1, 1])


def test_rows_of_the_table_are_what_a_convolution_of_ones_gives():
    geometry = Geometry((1, 3, 3), padding=(0, 1, 1))
    weight = bytes_of(4, 7, 1, 3, 3)
    table = tap_sums(packed(weight), geometry.taps, geometry.most)
    ones = F.conv3d(torch.ones(1, 7, 1, 4, 5).double(), weight.double(), padding=(0, 1, 1))[0, :, 0]
    front_front, inner, back_inner = 2 * 4 + 2, 0, 1 * 4 + 0  # (front, back) of height, then of width
    assert table.shape == (16, 4)
    assert torch.equal(table[front_front].double(), ones[:, 0, 0])
    assert torch.equal(table[inner].double(), ones[:, 1, 2])
    assert torch.equal(table[back_inner].double(), ones[:, 3, 2])


def test_the_largest_depth_is_what_int32_holds():
    assert LARGEST_DEPTH * 255 * 127 < 2**31 <= (LARGEST_DEPTH + 1) * 255 * 127
