"""What stands around the layers is checked as a network is prepared: kernels that err in one place are refused."""

from unittest import mock

import pytest
import torch
from diffusers import UNet2DConditionModel
from int8_layers import quantized_copy
from interpreted import quickly_interpreted
from tiny import tiny_unet

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu import check_around, self_check
from ptq4dm.backends.triton_gpu.check_around import Grid, checks, spacing
from ptq4dm.backends.triton_gpu.kernels import convolution, geglu, group_norm, layer_norm, linear
from ptq4dm.backends.triton_gpu.run import TritonBackend, with_kernels
from ptq4dm.errors import BackendError

CPU, TYPES = torch.device("cpu"), (torch.float32, torch.float16, torch.bfloat16)
SILU = "the group normalisation with SiLU"
ALWAYS = {
    SILU,
    "the group normalisation",
    "the normalisation that rounds for a shortcut",
    "the normalisation of two tensors",
    "the convolution that adds",
    "the linear layer that adds",
    "the convolution of an enlarged picture",
}


@pytest.fixture(scope="module", autouse=True)
def quick_interpreter():
    with quickly_interpreted():
        yield


def with_text():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=4, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8, attention_head_dim=4, norm_num_groups=4, resnet_time_scale_shift="scale_shift",
    )  # fmt: skip


NETWORKS = {
    "pictures": (lambda: tiny_unet(size=8, attention=True), {}, ALWAYS),
    "text": (
        with_text,
        {"smoothed": True},
        ALWAYS | {f"{SILU}, scaled and shifted", "the layer normalisation", "the gate"},
    ),
}


@pytest.fixture(scope="module")
def prepared():
    """Each network on the kernels, not yet checked, with the layers that it had; do not change them."""
    found = {}
    with mock.patch.object(self_check, "self_check"), mock.patch.object(check_around, "check_around"):
        for name, (make, options, _) in NETWORKS.items():
            simulated = quantized_copy(make(), **options)
            found[name] = (TritonBackend(strict=True).prepare(simulated, None), with_kernels(simulated)[0])
    return found


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_every_family_is_asked_and_right_in_every_type(name, prepared):
    network, layers = prepared[name]
    found = {check.family: check for check in checks(network, layers)}
    assert set(found) == NETWORKS[name][2]
    off = {(family, dtype): check.off(dtype, CPU) for family, check in found.items() for dtype in TYPES}
    assert max(off.values()) <= 1
    rounded = [value for (family, _), value in off.items() if "normalisation" in family or "gate" in family]
    assert min(rounded) > 0.9  # half a step is the most that rounding does, and among so many numbers it does it


def one_step_off(q):
    q.view(-1)[-1] += 1 if q.view(-1)[-1] < 127 else -1
    return q


def one_number_off(y):
    """By two units in the last place of float16, which are many of float32."""
    y.view(-1)[-1] += 2 * spacing(y.view(-1)[-1].double().abs(), torch.float16)
    return y


def normalised(wanted):
    """Of the group normalisations that `wanted` says by (silu, scale, beside, own)."""
    right = group_norm.group_norm_quantize

    def broken(*given, **named):
        silu, scale, beside, own = (given[at] if at < len(given) else None for at in (5, 8, 11, 12))
        q = right(*given, **named)
        return one_step_off(q) if wanted(silu, scale, beside, own) else q

    return group_norm, "group_norm_quantize", broken


def rounded_for_the_shortcut():
    right = group_norm.group_norm_quantize

    def broken(*given, **named):
        q = right(*given, **named)
        if len(given) > 12:
            one_step_off(given[12][0])
        return q

    return group_norm, "group_norm_quantize", broken


def behind(module, name, wrong):
    right = getattr(module, name)
    return module, name, lambda *arguments: wrong(right(*arguments))


def without(module, name, place):
    """A product that leaves out an argument: 8 is the embedding, 9 the residual (a convolution's come one later)."""
    right, place = getattr(module, name), place + (module is convolution)
    return module, name, lambda *a: right(*(None if at == place else item for at, item in enumerate(a)))


def unlarged(wrong):
    """A convolution of an enlarged picture."""
    right = convolution.convolution

    def broken(q, *arguments):
        y = right(q, *arguments)
        return wrong(y) if arguments[5].upsample > 1 else y

    return convolution, "convolution", broken


ALONE = "the normalisation that rounds for a shortcut"
PAIR = "the normalisation of two tensors"
BROKEN = {
    "norm with SiLU": ("pictures", SILU, lambda: normalised(lambda silu, _, __, own: silu and not own)),
    "norm, scaled and shifted": (
        "text", f"{SILU}, scaled and shifted", lambda: normalised(lambda _, scale, *__: scale is not None),
    ),
    "norm": ("text", "the group normalisation", lambda: normalised(lambda silu, *_: not silu)),
    "norm for two": ("pictures", ALONE, lambda: normalised(lambda _, __, two, own: own and two is None)),
    "norm of two": ("pictures", PAIR, lambda: normalised(lambda _, __, two, own: two is not None)),
    "shortcut": ("pictures", ALONE, rounded_for_the_shortcut),
    "layer norm": ("text", "the layer normalisation", lambda: behind(layer_norm, "layer_norm_quantize", one_step_off)),
    "gate": ("text", "the gate", lambda: behind(geglu, "geglu_quantize", one_step_off)),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("case", BROKEN)
def test_an_integer_that_is_a_step_off_is_refused(case, prepared, monkeypatch):
    name, family, breaking = BROKEN[case]
    monkeypatch.setattr(check_around, "SIDES", (5,))  # enough to see it
    monkeypatch.setattr(*breaking())
    message = rf"not exact on Triton's interpreter: {family} of '[\w.]+' is off in torch.float32, .* as far as rounding"
    with pytest.raises(BackendError, match=message):
        check_around.check_around(*prepared[name], TYPES, CPU)


PRODUCTS = {
    "no embedding": ("the convolution that adds", lambda: without(convolution, "convolution", 8)),
    "no residual": ("the convolution that adds", lambda: without(convolution, "convolution", 9)),
    "no residual of a linear layer": ("the linear layer that adds", lambda: without(linear, "linear", 9)),
    "a linear layer": ("the linear layer that adds", lambda: behind(linear, "linear", one_number_off)),
    "an enlarged picture": ("the convolution of an enlarged picture", lambda: unlarged(one_number_off)),
    "NaN": ("the convolution of an enlarged picture", lambda: unlarged(lambda y: y * float("nan"))),
}


@torch.no_grad()
@pytest.mark.parametrize("dtype", TYPES[:2])
@pytest.mark.parametrize("case", PRODUCTS)
def test_sums_that_are_wrong_are_refused(case, dtype, prepared, monkeypatch):
    family, breaking = PRODUCTS[case]
    monkeypatch.setattr(check_around, "SIDES", (5,))  # enough to see it
    monkeypatch.setattr(*breaking())
    with pytest.raises(BackendError, match=rf"{family} of '[\w.]+' is off in {dtype}"):
        check_around.check_around(*prepared["pictures"], (dtype,), CPU)


def test_a_network_with_such_a_kernel_is_not_prepared(monkeypatch):
    simulated = quantized_copy(tiny_unet((8,), size=4))
    monkeypatch.setattr(group_norm, "group_norm_quantize", lambda x, *rest, **more: torch.zeros(x.shape).char())
    with pytest.raises(BackendError, match=r"the group normalisation .* Use backend='simulated', and report it"):
        TritonBackend().prepare(simulated, None)


def test_what_rounding_explains_grows_with_the_numbers_that_were_added_and_no_more():
    grid = Grid(torch.tensor([0.5]), torch.tensor(3, dtype=torch.int8), None)
    value, q = torch.tensor([1.24]).double(), torch.tensor([5], dtype=torch.int8)  # 5.48: 5
    assert grid.off(q, value, value) < 1 < grid.off(q + 1, value, value)
    large = torch.tensor([2.0**18]).double()  # what is left of numbers so large is off by a step in float32
    assert grid.off(q + 1, value, large) < 1 < grid.off(q + 8, value, large)
    assert grid.off(q, torch.tensor([float("nan")]).double(), value) == float("inf")
    assert spacing(torch.tensor([1.0, 1.5, 2.0, 0.0]), torch.float16).tolist() == [2**-10, 2**-10, 2**-9, 2**-24]
