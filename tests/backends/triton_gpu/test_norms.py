"""GroupNorm and LayerNorm with SiLU and rounding against float64: another integer only where float32 cannot tell."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hard_cases import int8, near_a_tie

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu.kernels import geglu, gelu, group_norm, layer_norm, quantize


def agree(got, exact, step, zero_point, margin):
    """Equal to the rounded float64 numbers, but for one step where the quotient is within `margin` of a half."""
    quotient = exact.numpy() / step.double().numpy()
    expected = np.clip(np.rint(quotient) + zero_point + 128, 0, 255) - 128
    wrong = got.numpy() != expected
    assert np.abs(got.numpy() - expected).max() <= 1
    assert not (wrong & ~near_a_tie(quotient, margin)).any()


@pytest.mark.parametrize(
    ("channels", "groups", "size"), [(5, 5, (1, 1)), (6, 2, (7, 3)), (130, 13, (3, 5)), (32, 32, (4, 4)), (40, 4, (9,))]
)
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("modulated", [True, False])
def test_group_norm(channels, groups, size, silu, modulated):
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(2, *size, channels, generator=generator) * 3 + 1
    weight, bias = torch.randn(channels, generator=generator), torch.randn(channels, generator=generator)
    scale, shift = (torch.randn(2, channels, generator=generator) for _ in range(2)) if modulated else (None, None)
    step = (torch.rand(channels, generator=generator) + 0.5) / 20
    got = group_norm.group_norm_quantize(x, groups, weight, bias, 1e-5, silu, step, int8(9), scale, shift)
    y = F.group_norm(x.double().movedim(-1, 1), groups, weight.double(), bias.double(), 1e-5).movedim(1, -1)
    if modulated:
        apart = (2, *[1] * len(size), channels)
        y = y * (1 + scale.double().view(apart)) + shift.double().view(apart)
    agree(got, F.silu(y) if silu else y, step, 9, 1e-3)


@pytest.mark.parametrize("parts", [2, 4, 16])
def test_group_norm_in_parts_as_where_groups_are_too_few_to_fill_a_card(parts):
    """45 places: of 4 parts the last is smaller, of 16 (of 3 places) the last is empty."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, 9, 5, 15, generator=generator) * 3 + 40
    weight, bias = torch.randn(15, generator=generator), torch.randn(15, generator=generator)
    step = torch.tensor(0.03)
    for laid in (x, x.movedim(-1, 1).contiguous().movedim(1, -1)):
        got = group_norm.group_norm_quantize(laid, 3, weight, bias, 1e-5, True, step, int8(-100), parts=parts)
        y = F.group_norm(x.double().movedim(-1, 1), 3, weight.double(), bias.double(), 1e-5).movedim(1, -1)
        agree(got, F.silu(y), step, -100, 2e-3)


def test_parts_fill_the_card_and_no_more(monkeypatch):
    monkeypatch.setattr(group_norm, "INTERPRETED", False)
    monkeypatch.setattr(group_norm, "multiprocessors", lambda device: 132)
    parts = [group_norm.parts_for(programs, chunks, torch.device("cuda")) for programs, chunks in
             ((1024, 8), (264, 32), (128, 32), (16, 32), (16, 4), (1, 1000), (16, 1))]  # fmt: skip
    assert parts == [1, 1, 4, 32, 4, 32, 1]


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize(("channels", "groups"), [((10, 8), 2), ((1, 4), 5), ((30, 3), 11), ((16, 32), 4)])
def test_two_tensors_side_by_side_are_normalised_as_one_and_rounded_as_they_are(channels, groups, parts):
    """Of 10 and 8 channels in 2 groups, the second group has one of the first tensor and eight of the second."""
    generator = torch.Generator().manual_seed(groups)
    x, beside = (torch.randn(2, 3, 5, count, generator=generator) * 3 + 1 for count in channels)
    whole, count = torch.cat([x, beside], dim=-1), sum(channels)
    weight, bias = (torch.randn(count, generator=generator) for _ in range(2))
    step, own_step = ((torch.rand(count, generator=generator) + 0.5) / 20 for _ in range(2))
    common = (groups, weight, bias, 1e-5, True, step, int8(9))
    first_laid = (x.movedim(-1, 1).contiguous().movedim(1, -1), beside)  # each in a layout of its own
    for pair in ((x, beside), first_laid):
        own = torch.full(whole.shape, 99, dtype=torch.int8)
        got = group_norm.group_norm_quantize(
            pair[0], *common, beside=pair[1], own=(own, own_step, int8(-40)), parts=parts
        )
        assert torch.equal(got, group_norm.group_norm_quantize(whole, *common, parts=parts))
        assert torch.equal(own, quantize.quantize(whole, own_step, int8(-40)))
    exact = F.group_norm(whole.double().movedim(-1, 1), groups, weight.double(), bias.double(), 1e-5).movedim(1, -1)
    agree(got, F.silu(exact), step, 9, 1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_two_in_half_precision_with_bands_of_time_steps(dtype):
    """Each sample by the scales of its own band, its own numbers as the normalised ones."""
    generator = torch.Generator().manual_seed(4)
    x, beside = (torch.randn(4, 6, count, generator=generator).to(dtype) for count in (5, 3))
    whole, band = torch.cat([x, beside], dim=-1), torch.tensor([1, 0])
    tables = (torch.tensor([0.02, 0.05]), torch.tensor([3, -90], dtype=torch.int8))
    own_tables = (torch.tensor([0.04, 0.01]), torch.tensor([-5, 60], dtype=torch.int8))
    one, own = torch.ones(8, dtype=dtype), torch.empty(whole.shape, dtype=torch.int8)
    got = group_norm.group_norm_quantize(
        x, 2, one, one, 1e-5, True, *tables, band=band, beside=beside, own=(own, *own_tables)
    )
    for sample, which in enumerate((1, 1, 0, 0)):
        alone = (tables[0][which], tables[1][which])
        one_sample = group_norm.group_norm_quantize(whole[sample : sample + 1], 2, one, one, 1e-5, True, *alone)
        assert torch.equal(got[sample : sample + 1], one_sample)
        rounded = quantize.quantize(whole[sample], own_tables[0][which], own_tables[1][which])
        assert torch.equal(own[sample], rounded)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bands", [False, True])
def test_several_roundings_are_those_of_each(per_channel, bands):
    """Three steps and zero points for the same numbers, of one or of two bands of time-steps."""
    generator = torch.Generator().manual_seed(6)
    x, one = torch.randn(4, 5, 6, generator=generator), torch.ones(6)
    tables, band = ((3, 2), torch.tensor([1, 0])) if bands else ((3,), None)
    step = (torch.rand(*tables, *([6] if per_channel else []), generator=generator) + 0.5) / 20
    zero_point = torch.randint(-128, 128, tables, generator=generator).char()
    groups = group_norm.group_norm_quantize(x, 2, one, one, 1e-5, True, step, zero_point, band=band, roundings=3)
    rows = layer_norm.layer_norm_quantize(x, one, one, 1e-5, step, zero_point, band=band, roundings=3)
    for got, norm in ((groups, lambda *a: group_norm.group_norm_quantize(x, 2, one, one, 1e-5, True, *a, band=band)),
                      (rows, lambda *a: layer_norm.layer_norm_quantize(x, one, one, 1e-5, *a, band=band))):  # fmt: skip
        assert got.shape == (3, 4, 5, 6)
        for index in range(3):
            assert torch.equal(got[index], norm(step[index], zero_point[index]))


@pytest.mark.parametrize("parts", [1, 8])
def test_a_group_with_a_mean_far_above_its_spread(parts):
    """E[x**2] - E[x]**2 in float32 would lose the variance altogether."""
    x = torch.randn(1, 64, 64, 8, generator=torch.Generator().manual_seed(0)) + 3000
    step = torch.tensor(0.05)
    got = group_norm.group_norm_quantize(x, 2, torch.ones(8), torch.zeros(8), 1e-5, False, step, int8(0), parts=parts)
    y = F.group_norm(x.double().movedim(-1, 1), 2, eps=1e-5).movedim(1, -1)
    agree(got, y, step, 0, 0.1)
    naive = ((x.view(-1, 2, 4).square().mean((0, 2)) - x.view(-1, 2, 4).mean((0, 2)).square()) - 1).abs().max()
    assert naive > 0.1  # what this is about


def test_places_of_three_axes_that_lie_anyhow():
    """A view of a larger tensor, as a network of video may hand it: its places do not lie at one stride."""
    x, one = torch.randn(2, 4, 6, 8, 6)[:, ::2, 1:4, :5], torch.ones(6)
    common = (2, one, one, 1e-5, True, torch.tensor(0.03), int8(0))
    assert torch.equal(group_norm.group_norm_quantize(x, *common),
                       group_norm.group_norm_quantize(x.contiguous(), *common))  # fmt: skip


def test_scale_and_shift_may_be_halves_of_one_tensor_or_lie_anyhow():
    x, both = torch.randn(3, 4, 6), torch.randn(3, 12)
    one, step = torch.ones(6), torch.tensor(0.03)
    halves = both.chunk(2, dim=1)
    apart = [half.contiguous() for half in halves]
    expected = group_norm.group_norm_quantize(x, 2, one, one, 1e-5, True, step, int8(0), *apart)
    strewn = both.repeat_interleave(2, dim=1)[:, ::2].chunk(2, dim=1)
    for scale, shift in (halves, strewn, (halves[0], apart[1])):
        got = group_norm.group_norm_quantize(x, 2, one, one, 1e-5, True, step, int8(0), scale, shift)
        assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_group_norm_of_channels_first_in_half_precision(dtype):
    x = torch.randn(2, 12, 6, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight, bias = torch.randn(12).to(dtype), torch.randn(12).to(dtype)
    step, zero_point = torch.tensor(0.02), int8(-20)
    common = (3, weight, bias, 1e-5, True, step, zero_point)
    first = group_norm.group_norm_quantize(x.movedim(1, -1), *common)
    last = group_norm.group_norm_quantize(x.movedim(1, -1).contiguous(), *common)
    assert torch.equal(first, last)
    sliced = x.movedim(1, -1)[:, ::2]
    assert torch.equal(group_norm.group_norm_quantize(sliced, *common),
                       group_norm.group_norm_quantize(sliced.contiguous(), *common))  # fmt: skip
    exact = F.silu(F.group_norm(x.double(), 3, weight.double(), bias.double(), 1e-5)).movedim(1, -1)
    agree(first, exact, step, -20, 1e-3)


def test_extremes_after_silu():
    """SiLU of what is far below 0 is 0, not NaN."""
    x = torch.tensor([-3.0, 1.0, 1.0, 1.0]).view(1, 4, 1)
    got = group_norm.group_norm_quantize(
        x, 1, torch.tensor([1e4]), torch.tensor([0.0]), 1e-5, True, torch.tensor(0.1), int8(0)
    )
    assert got.flatten().tolist() == [0, 127, 127, 127]


@pytest.mark.parametrize("channels", [1, 3, 17, 130])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm(channels, affine):
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(3, 7, channels, generator=generator) * 2 - 5
    weight, bias = (torch.randn(channels, generator=generator) for _ in range(2)) if affine else (None, None)
    scale, shift = (torch.randn(3, channels, generator=generator) for _ in range(2))
    step = (torch.rand(channels, generator=generator) + 0.5) / 20
    for modulation in ((None, None), (scale, shift)):
        got = layer_norm.layer_norm_quantize(x, weight, bias, 1e-6, step, int8(-7), *modulation)
        held = [None if tensor is None else tensor.double() for tensor in (weight, bias)]
        y = F.layer_norm(x.double(), (channels,), *held, 1e-6)
        if modulation[0] is not None:
            y = y * (1 + scale.double()[:, None]) + shift.double()[:, None]
        agree(got, y, step, -7, 1e-3)


@pytest.mark.parametrize("channels", [1, 17, 130])
def test_a_gate(channels):
    x = torch.randn(3, 7, 2 * channels, generator=torch.Generator().manual_seed(channels)) * 4
    step = (torch.rand(channels, generator=torch.Generator().manual_seed(2)) + 0.5) / 20
    value, gate = x.double().chunk(2, dim=-1)
    exact = value * gate * (1 + torch.erf(gate / 2**0.5)) / 2
    agree(geglu.geglu_quantize(x, step, int8(-7)), exact, step, -7, 1e-3)


@pytest.mark.parametrize("channels", [1, 17, 130])
@pytest.mark.parametrize("tanh", [False, True])
def test_gelu(channels, tanh):
    x = torch.randn(3, 7, channels, generator=torch.Generator().manual_seed(channels)) * 4
    x[0, 0, 0], x[0, 1, 0] = 1e4, -1e4
    step = (torch.rand(channels, generator=torch.Generator().manual_seed(2)) + 0.5) / 20
    exact = F.gelu(x.double(), approximate="tanh" if tanh else "none")
    agree(gelu.gelu_quantize(x, tanh, step, int8(-7)), exact, step, -7, 1e-3)


def test_no_samples():
    step, one = torch.tensor(0.1), torch.ones(4)
    assert group_norm.group_norm_quantize(torch.ones(0, 2, 4), 2, one, one, 1e-5, True, step, int8(0)).shape == (
        0,
        2,
        4,
    )
    assert layer_norm.layer_norm_quantize(torch.ones(0, 2, 4), one, one, 1e-5, step, int8(0)).shape == (0, 2, 4)
