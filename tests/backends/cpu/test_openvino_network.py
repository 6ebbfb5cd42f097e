"""Whole networks on OpenVINO: the same numbers and the same signature as the simulated backend."""

import dataclasses
import re
import warnings

import pytest
import torch
from diffusers import DDPMPipeline
from diffusers.models.attention_processor import Attention
from diffusers.models.controlnets.controlnet import ControlNetOutput
from diffusers.models.embeddings import Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput
from tiny import tiny_pipeline, tiny_unet
from torch import Tensor, nn

import ptq4dm
from ptq4dm.backends.cpu.openvino import compile_float, lower
from ptq4dm.backends.cpu.openvino.batches import FIXED_SIZES
from ptq4dm.backends.cpu.openvino.executed import executed_layers
from ptq4dm.backends.cpu.openvino.friendly import friendly_forwards
from ptq4dm.backends.cpu.openvino.run import OpenVINOBackend
from ptq4dm.backends.cpu.reads import reads_values
from ptq4dm.backends.simulated import SimulatedBackend
from ptq4dm.errors import BackendError, BackendWarning
from ptq4dm.numerics import asymmetric_params
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.layers import QuantizedConv, QuantizedLinear

pytest.importorskip("openvino")
KINDS = {nn.Conv2d: QuantizedConv, nn.Linear: QuantizedLinear}


def quantize_by_min_max(network: nn.Module, *call: Tensor) -> nn.Module:
    """Replace each convolution and linear by its INT8 twin: 7-bit weights, ranges as seen in one call."""
    layers = {name: module for name, module in network.named_modules() if type(module) in KINDS}
    ranges, hooks = {}, []
    for name, module in layers.items():
        note = lambda _, inputs, name=name: ranges.update({name: (inputs[0].min(), inputs[0].max())})  # noqa: E731
        hooks.append(module.register_forward_pre_hook(note))
    network(*call)
    for hook in hooks:
        hook.remove()
    for name, module in layers.items():
        twin = KINDS[type(module)](module)
        scale = module.weight.flatten(1).abs().amax(1) / 64
        twin.weight.copy_(torch.round(module.weight / scale.view(-1, *[1] * (module.weight.dim() - 1))))
        twin.weight_scale.copy_(scale)
        input_scale, zero_point = asymmetric_params(*ranges[name])
        twin.input_scale.copy_(input_scale)
        twin.input_zero_point.copy_(zero_point)
        if module.bias is not None:
            twin.bias.copy_(module.bias)
        parent, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, twin)
    return network


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    network = tiny_unet((8, 16), 16, attention=True)
    return quantize_by_min_max(network, torch.randn(4, 3, 16, 16), torch.tensor([1, 300, 600, 999]))


@pytest.fixture(scope="module")
def reading():
    """Whether each network that was traced was seen to read values in Python."""
    return []


@pytest.fixture(scope="module")
def deployed(unet, reading):
    def noted(network, tensors):
        reading.append(reads_values(network, tensors))
        return reading[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lower, "reads_values", noted)
        return OpenVINOBackend().prepare(unet, Call((torch.randn(4, 3, 16, 16), torch.tensor([1, 300, 600, 999]))))


def test_a_unet_reads_no_values_so_it_is_traced_in_few_calls(deployed, reading):
    assert reading == [False]


def test_every_quantized_layer_ran_in_int8_under_its_name(unet, deployed):
    names = [name for name, module in unet.named_modules() if isinstance(module, QuantizedConv | QuantizedLinear)]
    assert [run.layer for run in deployed.ptq4dm_engine.executed] == names
    assert [run for run in deployed.ptq4dm_engine.executed if not run.int8] == []


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_as_near_the_simulated_network_as_float32_is_to_float64(unet, deployed, batch):
    torch.manual_seed(batch)
    x, t = torch.randn(batch, 3, 16, 16), torch.randint(0, 1000, (batch,))
    simulated = unet(x, t).sample
    engine = deployed(x, t).sample
    assert relative(engine, simulated) < 0.01  # a flipped 8-bit step here and there; a wrong layer gives 0.1 and more
    assert engine.dtype == torch.float32 and len(deployed.ptq4dm_engine.graphs) == 1


def test_every_graph_is_looked_at_whatever_its_batch_size(monkeypatch):
    """One compiled later, in which the engine shows a layer in float, is warned of and reported."""
    network = nn.Sequential(nn.Conv2d(16, 16, 3), nn.SiLU(), nn.Conv2d(16, 16, 1)).eval().requires_grad_(False)
    pictures = torch.randn(9, 16, 5, 5)
    module = OpenVINOBackend().prepare(quantize_by_min_max(network, pictures), Call((pictures[:2],)))
    assert all(layer.int8 for layer in module.ptq4dm_engine.executed)

    def with_one_in_float(*args):
        first, *others = executed_layers(*args)
        return (dataclasses.replace(first, int8=False), *others)

    monkeypatch.setattr("ptq4dm.backends.cpu.openvino.run.executed_layers", with_one_in_float)
    for batch in (3, 5, 7, 9):  # three more of their own, then the one of any batch
        with pytest.warns(BackendWarning, match=r"does not show 1 of 2 quantized layers as run in INT8 \(0\)"):
            module(pictures[:batch])
        module(pictures[:batch])  # known already
    assert [layer.int8 for layer in module.ptq4dm_engine.executed] == [False, True]


def test_time_step_is_an_input(unet, deployed):
    x = torch.randn(2, 3, 16, 16)
    early, late = (deployed(x, torch.full((2,), t)).sample for t in (0, 999))
    assert relative(early, late) > 5 * relative(late, unet(x, torch.full((2,), 999)).sample)


class ReadsSigma(nn.Module):
    """A score network that reads its noise level as a tensor and in Python."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.conv(x) * sigma + (1 if sigma > 0.5 else float(sigma))


class Branches(ReadsSigma):
    """A network that takes another way beyond a noise level that no call so far has had."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.conv(x) * sigma if sigma > 5 else -self.conv(x) * sigma


def test_a_branch_beyond_the_example_is_refused():
    x, sigma = torch.randn(2, 8, 8, 8), torch.tensor(0.9)
    network = quantize_by_min_max(Branches().eval().requires_grad_(False), x, sigma)
    with pytest.raises(BackendError, match="Branches reads sigma in Python"):
        OpenVINOBackend().prepare(network, Call((x, sigma)))


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_padding_by_name_is_padding_in_numbers(padding):
    x = torch.randn(2, 8, 9, 9)
    network = nn.Sequential(nn.Conv2d(8, 8, (3, 5), padding=padding, dilation=(2, 1))).eval().requires_grad_(False)
    expected = network(x)
    network = quantize_by_min_max(network, x)
    assert relative(network(x), expected) < 0.05
    torch.testing.assert_close(OpenVINOBackend().prepare(network, Call((x,)))(x), network(x), rtol=1e-5, atol=1e-5)


def test_padding_that_is_one_more_on_one_side_is_refused_by_name():
    x, network = torch.randn(2, 8, 9, 9), nn.Sequential(nn.Conv2d(8, 8, 2, padding="same")).requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch says that it may copy the input
        network = quantize_by_min_max(network.eval(), x)
    with pytest.raises(BackendError, match=r"layer '0' \(padding 'same'"):
        OpenVINOBackend().prepare(network, Call((x,)))


def test_a_network_that_the_engine_cannot_compile_is_passed_over():
    pipe = tiny_pipeline()
    unet = tiny_unet(attention=False, time_embedding_type="learned", num_train_timesteps=1000)
    recipe = ptq4dm.load_recipe("w8a8").replace(calibration={"samples": 4, "steps": 3, "batch_size": 4})
    model = ptq4dm.quantize(DDPMPipeline(unet, pipe.scheduler), recipe)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor(700)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BackendWarning)
        module = model.to_module("auto")
    assert relative(module(x, t).sample, model.network(x, t).sample) < 0.02
    if module.ptq4dm_backend == "simulated":  # refused; or, where the machine was busy, slower than the tiny network
        (of_openvino,) = (note for note in module.ptq4dm_notes if note.startswith("openvino: "))
        assert re.match(r"openvino: (OpenVINO cannot|[\d.]+ ms a call)", of_openvino)


def test_a_noise_level_that_tracing_would_hold_fixed_is_refused():
    x, sigma = torch.randn(2, 8, 8, 8), torch.tensor(0.9)
    network = quantize_by_min_max(ReadsSigma().eval().requires_grad_(False), x, sigma)
    with pytest.raises(BackendError, match="ReadsSigma reads sigma in Python"):
        OpenVINOBackend().prepare(network, Call((x, sigma)))


def test_signature_and_attributes_of_the_network(unet, deployed):
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([5, 6])
    assert isinstance(deployed(x, timestep=t), UNet2DOutput)
    assert torch.equal(deployed(x, t, return_dict=False)[0], deployed(x, t).sample)
    assert deployed.config.in_channels == 3 and deployed.config.sample_size == 16
    assert deployed.dtype == torch.float32 and deployed.device == torch.device("cpu")


def test_any_number_of_batch_sizes(deployed):
    x, t = torch.randn(FIXED_SIZES + 3, 3, 16, 16), torch.arange(FIXED_SIZES + 3)
    whole = deployed(x, t).sample
    for size in range(1, FIXED_SIZES + 3):
        assert relative(deployed(x[:size], t[:size]).sample, whole[:size]) < 0.03  # flips: 0.012 without VNNI


def test_answers_do_not_share_memory(deployed):
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([5, 6])
    first = deployed(x, t).sample
    copy = first.clone()
    deployed(-x, t)
    assert torch.equal(first, copy)


def test_simulated_backend_is_the_network_itself(unet):
    backend = SimulatedBackend()
    assert backend.prepare(unet, Call()) is unet and backend.unavailable() is None


@pytest.mark.parametrize("friendly", [False, True])
def test_float_baseline_equals_pytorch(friendly):
    network = tiny_unet((8, 16), 16)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 900])
    module = compile_float(network, Call((x, t)), friendly)
    torch.testing.assert_close(module(x, t).sample, network(x, t).sample, rtol=1e-4, atol=1e-5)


def test_quantizing_flips_no_integer():
    """A layer of width 1 and weight 1 shows the integers themselves: x is divided by s, rounded, and only then z added.

    The inputs are many, small beside z, and some just beside a tie: a reciprocal or an early z would move hundreds.
    """
    layer = QuantizedConv(nn.Conv2d(1, 1, 1, bias=False))
    layer.weight.fill_(1), layer.weight_scale.fill_(1 / 0.0137)
    layer.input_scale.fill_(0.0137), layer.input_zero_point.fill_(200)
    generator = torch.Generator().manual_seed(0)
    ties = (torch.randint(-8, 8, (500_000,), generator=generator) + 0.5) * layer.input_scale
    x = torch.nextafter(ties, torch.randn(ties.shape, generator=generator)).reshape(1, 1, 500, 1000)
    network = nn.Sequential(layer)
    module = OpenVINOBackend().prepare(network, Call((x,)))
    assert torch.equal(module(x).round(), network(x).round())


class Embedded(nn.Module):
    """The embedding of a time-step as diffusers computes it: frequencies that depend on no input, then sines."""

    def __init__(self):
        super().__init__()
        self.time_proj = Timesteps(1024, flip_sin_to_cos=True, downscale_freq_shift=0)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x + self.time_proj(t)


def test_frequencies_of_the_time_step_are_pytorchs_own():
    """OpenVINO's own exponential is off by the last bit here and there, and t multiplies what is off."""
    network = Embedded()
    x, t = torch.zeros(2, 1024), torch.tensor([998, 999])
    module = compile_float(network, Call((x, t)), friendly=True)
    torch.testing.assert_close(module(x, t), network(x, t), rtol=0, atol=1e-6)


class Blocks(nn.Module):
    """Group normalisation in 1d to 3d and an attention with several heads, no residual, a scaled output."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(4, 8), nn.GroupNorm(1, 8, affine=False), nn.GroupNorm(8, 8, eps=1e-3)])
        self.attention = Attention(
            8,
            heads=2,
            dim_head=4,
            norm_num_groups=4,
            bias=True,
            rescale_output_factor=1.7,
            _from_deprecated_attn_block=True,
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = [x.reshape(x.shape[0], 8, *shape) for shape in ((36,), (6, 6), (3, 3, 4))]
        return (*(norm(y) for norm, y in zip(self.norms, maps)), self.attention(x))


def test_friendly_forms_are_the_same_functions():
    torch.manual_seed(0)
    blocks, x = Blocks().eval().requires_grad_(False), torch.randn(3, 8, 6, 6) * 2 + 1
    for norm in (blocks.norms[0], blocks.norms[2]):
        norm.weight.normal_(), norm.bias.normal_()
    expected = blocks(x)
    with friendly_forwards(blocks):
        torch.testing.assert_close(blocks(x), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(blocks(x), expected))  # nothing stays replaced


class Sampled(nn.Module):
    """A downsampler with asymmetric zero padding and a nearest upsampler, as diffusers has them."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 8, 3, stride=2), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.down(nn.functional.pad(x, (0, 1, 0, 1)))
        return self.up(nn.functional.interpolate(low, scale_factor=2.0, mode="nearest")) + x


def test_quantizing_before_resizing_changes_nothing():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 8, 8)
    network = quantize_by_min_max(Sampled().eval().requires_grad_(False), x)
    module = OpenVINOBackend().prepare(network, Call((x,)))
    torch.testing.assert_close(module(x), network(x), rtol=1e-5, atol=1e-5)
    assert all(run.int8 for run in module.ptq4dm_engine.executed)


class Nested(torch.nn.Module):
    """A network that answers as a ControlNet does: a list of tensors and a tensor, named or in a tuple."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.Conv2d(8, 16, 1)

    def forward(self, x, return_dict=True):
        a = self.first(x)
        answer = ([a, self.first(a)], self.second(a))
        return ControlNetOutput(tuple(answer[0]), answer[1]) if return_dict else answer


def test_a_nested_answer_comes_back_as_the_network_gives_it():
    network = Nested().eval()
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    model = ptq4dm.quantize_module(network, [((x,), {})])
    fast = model.to_module("openvino")
    assert isinstance(fast, Nested) and fast.first is model.network.first
    named, (listed, last) = fast(x), fast(x, return_dict=False)
    wanted = model.network(x)
    for got in (named.down_block_res_samples, listed):
        for mine, theirs in zip(got, wanted.down_block_res_samples, strict=True):
            torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(last, wanted.mid_block_res_sample)
    torch.testing.assert_close(named.mid_block_res_sample, wanted.mid_block_res_sample)


@torch.library.custom_op("ptq4dm_tests::cube", mutates_args=())
def cube(x: Tensor) -> Tensor:
    """An operator that no engine knows."""
    return x**3


def test_a_network_that_cannot_be_converted_is_refused_with_the_operator():
    class Cubed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return cube(self.conv(x))

    model = ptq4dm.quantize_module(Cubed().eval(), [((torch.randn(2, 8, 8, 8),), {})])
    told = r"cannot express Cubed \(it has no rule for the operator ptq4dm_tests::cube\): use backend='simulated'"
    with pytest.raises(BackendError, match=told):
        model.to_module("openvino")
    with pytest.warns(BackendWarning, match="passes over openvino: .*ptq4dm_tests::cube"):
        assert model.to_module("auto").ptq4dm_backend == "simulated"
