"""Time-step-dependent scales: tables on the device, by the band of the call or of each sample."""

import copy

import pytest
import torch
from hard_cases import bytes_of
from int8_layers import int8_form
from interpreted import quickly_interpreted
from timed import CUTS, RANGES, Timed, banded, inputs
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu import layers as triton_layers
from ptq4dm.backends.triton_gpu.kernels import geglu, group_norm, layer_norm, quantize
from ptq4dm.backends.triton_gpu.kernels.launching import Settings
from ptq4dm.backends.triton_gpu.kernels.linear import linear
from ptq4dm.backends.triton_gpu.layers import TritonLayer
from ptq4dm.backends.triton_gpu.rounded_norms import alike
from ptq4dm.backends.triton_gpu.run import TritonBackend
from ptq4dm.errors import BackendError, BackendWarning, ModelError
from ptq4dm.quantization.rewrite import with_layers
from ptq4dm.quantization.time_bands import set_bands
from ptq4dm.ranges.search import InputRange


@pytest.fixture(scope="module", autouse=True)
def quick_interpreter():
    with quickly_interpreted():
        yield


@torch.no_grad()
@pytest.mark.parametrize("smoothed", [False, True])
def test_it_is_the_simulated_network_to_the_bit_in_every_band(smoothed):
    simulated = banded(smoothed=smoothed)
    prepared = TritonBackend(strict=True).prepare(simulated, None)
    assert all(
        isinstance(layer, TritonLayer) and layer.step.shape[0] == 3 for layer in (prepared.conv, prepared.linear)
    )
    x, t = inputs()
    for call in ((x, t), (x, t[3]), (x[:1], t[:1]), (torch.cat([x, x]), t.flip(0)), (x[:2], torch.tensor(99.5))):
        for got, expected in zip(prepared(*call), simulated(*call), strict=True):
            assert torch.equal(got, expected)


@torch.no_grad()
def test_a_copy_goes_by_its_own_calls_and_layers_without_a_kernel_by_the_networks():
    class Grouped(Timed):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(6, 8, 3, padding=1, groups=2)

    plain = Grouped().eval().requires_grad_(False)
    simulated = with_layers(plain, {name: int8_form(plain.get_submodule(name)) for name in ("conv", "linear")})
    ranges = [InputRange(scale, zero, 0.0, 0.0, 0.0) for scale, zero in RANGES]
    set_bands(simulated, "t", CUTS, {"conv": ranges, "linear": ranges})
    with pytest.warns(BackendWarning, match="2 groups"):
        prepared = TritonBackend().prepare(simulated, None)
    x, t = inputs((0, 999))
    expected = simulated(x, t)[1]
    assert torch.equal(prepared(x, t)[1], expected)
    other = copy.deepcopy(prepared)
    prepared(x, t.flip(0))
    assert torch.equal(other(x, t)[1], expected)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_compiles_to_one_graph_for_every_band():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    prepared = TritonBackend().prepare(banded(), None)
    compiled = torch.compile(lambda x, t: prepared(x, t), backend=counter, fullgraph=True)
    x, t = inputs()
    for times in (t, t.flip(0)):
        assert torch.equal(compiled(x, times)[1], prepared(x, times)[1])
    assert counter.frame_count == 1
    alone = torch.compile(prepared, backend=counter, fullgraph=True)  # torch compiles the hook in front by itself
    for times in (t, t.flip(0)):
        assert torch.equal(alone(x, times)[1], prepared(x, times)[1])
    assert counter.frame_count == 3


def test_a_kernel_that_is_wrong_in_one_band_is_refused(monkeypatch):
    right = triton_layers.step_of
    monkeypatch.setattr(triton_layers, "step_of", lambda layer: right(layer) * torch.tensor([1.0, 1.0, 1.01]))
    with pytest.raises(BackendError, match=r"not exact on Triton's interpreter: layer 'conv' is .* float32 units off"):
        TritonBackend().prepare(banded(), None)


def test_samples_that_cannot_be_dealt_out_are_refused():
    prepared = TritonBackend().prepare(banded(), None)
    with pytest.raises(ModelError, match="2 time-steps for a layer's input of 3 samples"):
        prepared(torch.zeros(3, 6, 4, 4), torch.tensor([1, 2]))


BAND, STEPS, ZEROS = torch.tensor([2, 0]), torch.tensor([0.02, 0.3, 0.05]), torch.tensor([-100, 3, 40]).char()


def rounded_by(kernel, x, *arguments):
    """In one call with two bands, with one of one number, and sample by sample with the band's own numbers."""
    channelled = STEPS[:, None] * (1 + torch.arange(x.shape[-1]))
    for steps in (STEPS, channelled):
        apart = torch.cat([kernel(x[i : i + 2], *arguments, steps[b], ZEROS[b]) for i, b in ((0, 2), (2, 0))])
        assert torch.equal(kernel(x, *arguments, steps, ZEROS, band=BAND), apart)
        assert torch.equal(kernel(x[:2], *arguments, steps, ZEROS, band=BAND[:1]), apart[:2])
    assert not torch.equal(apart[:2], kernel(x[:2], *arguments, steps[1], ZEROS[1]))


def test_normalisations_and_rounding_alone_take_each_samples_band():
    x, one = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0)), torch.ones(6)
    rounded_by(quantize.quantize, x)
    rounded_by(lambda x, *a, **k: quantize.quantize(x.movedim(1, 2), *a, **k), x.contiguous())
    rounded_by(lambda x, *a, **k: group_norm.group_norm_quantize(x, 2, one, one, 1e-5, True, *a, **k), x)
    rounded_by(lambda x, *a, **k: geglu.geglu_quantize(x.repeat(1, 1, 1, 2), *a, **k), x)
    rounded_by(lambda x, *a, **k: layer_norm.layer_norm_quantize(x, one, None, 1e-5, *a, **k), x)


def test_a_tile_may_hold_rows_of_several_bands():
    q, weight = bytes_of(4, 5, 33), bytes_of(21, 33, seed=1, low=-127)
    common, tile = (q, weight, weight.sum(1).int()), Settings(16, 16, 32)
    got = linear(*common, STEPS, ZEROS, torch.full((21,), 0.5), torch.float32, band=BAND, settings=tile)
    for sample, band in ((0, 2), (1, 2), (2, 0), (3, 0)):
        exact = (q[sample].long() - int(ZEROS[band])) @ weight.long().T
        assert torch.equal(got[sample], exact.float() * (STEPS[band] * 0.5))


def test_layers_round_alike_only_by_the_bands_of_one_network():
    one, other = (TritonBackend().prepare(banded(), None) for _ in range(2))
    assert alike([one.conv, one.conv]) and not alike([one.conv, other.conv]) and not alike([one.conv, one.linear])
