"""The backend: what it puts in place, what it refuses, and that torch.compile sees one graph."""

import copy
from contextlib import nullcontext

import pytest
import torch
from diffusers import UNet2DConditionModel
from int8_layers import int8_form, quantized_copy
from interpreted import quickly_interpreted
from timed import banded
from tiny import tiny_pipeline, tiny_unet
from torch import nn
from torch._dynamo.testing import CompileCounter

pytest.importorskip("triton")
import ptq4dm
from ptq4dm.backends.registry import BACKENDS, find_backend, prepare
from ptq4dm.backends.triton_gpu import available
from ptq4dm.backends.triton_gpu.blocks import FusedResnetBlock2D, FusedUpsample2D
from ptq4dm.backends.triton_gpu.examples import example_from_config
from ptq4dm.backends.triton_gpu.layers import TritonLayer
from ptq4dm.backends.triton_gpu.run import TritonBackend, call_in_type
from ptq4dm.errors import BackendError, BackendWarning, MissingDependencyError, ModelError, TimeAxisWarning
from ptq4dm.integrations.marking import marked
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.time_axis import watch_time
from ptq4dm.quantization.time_bands import bands_of


def kinds(network, kind):
    return [name for name, module in network.named_modules() if isinstance(module, kind)]


def tiny_conditional(**options):
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=4, in_channels=4, out_channels=4, block_out_channels=(8,), layers_per_block=1, mid_block_type=None,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=8,
        attention_head_dim=4, norm_num_groups=4, **options,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick_interpreter():
    with quickly_interpreted():
        yield


@pytest.fixture(scope="module")
def simulated():
    return marked(quantized_copy(tiny_unet(size=8, attention=True)), "float-out")


@pytest.fixture(scope="module")
def prepared(simulated):
    """The same network on the kernels; do not change it."""
    return TritonBackend(strict=True).prepare(simulated, None)


def test_every_quantized_layer_gets_a_kernel_and_blocks_are_fused(simulated, prepared):
    wanted = kinds(simulated, QuantizedLayer)
    blocks = [name for name, _ in simulated.named_modules() if name.endswith("conv1")]
    assert sorted(kinds(prepared, TritonLayer)) == sorted(wanted) and not kinds(prepared, QuantizedLayer)
    assert len(kinds(prepared, FusedResnetBlock2D)) == len(blocks) and len(kinds(prepared, FusedUpsample2D)) == 1
    assert wanted  # the simulated network is as it was
    assert isinstance(prepared, type(simulated)) and prepared.config == simulated.config


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_it_is_near_the_simulated_network(simulated, prepared, dtype):
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([10, 800])
    exact, got = simulated(x, t).sample, copy.deepcopy(prepared).to(dtype)(x.to(dtype), t).sample
    assert got.dtype == dtype
    plain = nn.Module.to(copy.deepcopy(simulated), dtype)(x.to(dtype), t).sample.float()
    assert (got.float() - exact).norm() < 1.5 * (plain - exact).norm()  # what half precision does to it anyway


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_compiles_with_the_note_on_the_time_axis():
    """Whole networks, and what they give: `test_whole_networks.py`."""
    torch._dynamo.reset()
    network = TritonBackend().prepare(quantized_copy(tiny_unet((8,), size=8, add_attention=False)), None)
    watch_time(network, {"argument": "timestep", "low": 0, "high": 999})  # as a pipeline's network has it
    counter = CompileCounter()
    x, t = torch.randn(2, 3, 8, 8), torch.full((2,), 500)
    for given in (x, t):
        torch._dynamo.mark_dynamic(given, 0)  # an error if the trace holds for one batch alone
    torch.compile(network, backend=counter, fullgraph=True)(x, t)
    assert counter.frame_count == 1


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_goes_through_functionalization():
    torch._dynamo.reset()
    plain = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 8, 1), nn.Flatten(2), nn.Linear(9, 5))
    network = TritonBackend().prepare(quantized_copy(plain), None)
    x = torch.randn(2, 8, 6, 6)
    got = torch.compile(network, backend="aot_eager", fullgraph=True)(x)
    assert torch.allclose(got, network(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_batches_that_nothing_was_said_of_are_compiled_for_twice_at_most():
    torch._dynamo.reset()
    plain = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 8, 1), nn.Flatten(2), nn.Linear(4, 5))
    network, counter = TritonBackend().prepare(quantized_copy(plain), None), CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    for batch in (2, 3, 5, 7):
        x = torch.randn(batch, 8, 4, 4)
        assert torch.equal(compiled(x), network(x))
    assert counter.frame_count == 2  # once for the first batch, once for all


def test_layers_without_a_kernel_are_told_or_refused():
    network = quantized_copy(nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.SiLU(), nn.Conv2d(8, 8, 1)))
    x = torch.randn(1, 8, 4, 4)
    with pytest.warns(BackendWarning, match=r"1 of 2 quantized layers have no INT8 kernel \(0: 2 groups"):
        prepared = TritonBackend().prepare(network, None)
    assert torch.equal(prepared(x), network(x))
    with pytest.raises(BackendError, match=r"1 of 2 quantized layers have no INT8 kernel .*leave strict out"):
        TritonBackend(strict=True).prepare(network, None)


def test_a_backend_may_be_given_with_its_options():
    backend = TritonBackend(strict=True)
    assert find_backend(backend, "float-out") is backend
    network = quantized_copy(nn.Sequential(nn.Conv2d(8, 8, 1)))
    assert prepare(network, None, backend, "float-out").ptq4dm_backend == "triton"
    with pytest.raises(BackendError, match="backend 'triton' computes the arithmetic 'float-out'"):
        find_backend(backend, "qdq")


@pytest.mark.parametrize("batch", [0, -3, 1.5, True, "8"])
def test_a_batch_that_is_no_number_of_samples_is_refused(batch):
    with pytest.raises(BackendError, match=rf"TritonBackend\(batch={batch!r}\): .* whole number of at least 1"):
        TritonBackend(batch=batch)
    assert TritonBackend(batch=1).batch == 1 and TritonBackend().batch is None


@torch.no_grad()
@pytest.mark.parametrize("source", [nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(8, 8, 3, groups=2)], ids=["one", "left"])
def test_a_network_may_be_one_layer(source):
    layer, x = int8_form(source).requires_grad_(False), torch.randn(2, 8, 4, 4)
    with nullcontext() if source.groups == 1 else pytest.warns(BackendWarning, match=r"1 of 1 .* have no INT8 kernel"):
        prepared = TritonBackend().prepare(layer, None)
    assert isinstance(prepared, TritonLayer) == (source.groups == 1) and prepared is not layer
    assert torch.equal(prepared(x), layer(x)) and [one.layer for one in prepared.ptq4dm_layers] == [""]


def test_hooks_are_the_networks_own_but_not_the_dictionaries_that_hold_them():
    """A hook on the prepared form watches that alone; the note on the time axis may come after preparing."""
    called = []
    network = banded()
    network.register_forward_pre_hook(lambda module, args: called.append("both"))
    prepared = TritonBackend().prepare(network, None)
    prepared.register_forward_pre_hook(lambda module, args: called.append("prepared"))
    network.register_forward_pre_hook(lambda module, args: called.append("network"))
    call = (torch.zeros(1, 6, 5, 5), torch.tensor([3]))
    prepared(*call)
    assert called == ["both", "prepared"]
    called.clear()
    network(*call)
    assert called == ["both", "network"] and bands_of(prepared) is bands_of(network) is not None
    watch_time(network, {"argument": "t", "low": 500.0, "high": 999.0})
    with pytest.warns(TimeAxisWarning, match="called at time-step 3"):
        prepared(*call)


def test_auto_does_not_try_it_without_a_gpu(monkeypatch):
    for backend in BACKENDS.values():
        monkeypatch.setattr(type(backend), "unavailable", lambda self: None if self.name == "simulated" else "away")
    monkeypatch.setattr(TritonBackend, "unavailable", lambda self: pytest.fail("asked on a CPU"))
    model = ptq4dm.quantize_module(nn.Sequential(nn.Conv2d(8, 8, 1)), [((torch.randn(2, 8, 4, 4),), {})])
    with pytest.warns(BackendWarning, match="passes over openvino"):
        assert model.to_module("auto").ptq4dm_backend == "simulated"


def test_a_pipeline_in_it_is_not_saved_as_an_artifact(prepared, tmp_path):
    pipe = tiny_pipeline()
    pipe.register_modules(unet=prepared)
    with pytest.raises(BackendError, match=r"laid out for the triton backend: save the quantized model"):
        pipe.save_pretrained(tmp_path)


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match=r"needs an NVIDIA GPU, and torch sees none .*backend='openvino'"):
        find_backend("triton", "float-out")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(BackendError, match=r"Tesla T4 has compute capability 7\.5, .* need 8\.0 \(Ampere\) or later"):
        find_backend("triton", "float-out")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert TritonBackend().unavailable() is None
    monkeypatch.setattr(available, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"pip install 'ptq4dm\[triton\]'"):
        find_backend("triton", "float-out")
    with pytest.raises(MissingDependencyError, match=r"pip install 'ptq4dm\[triton\]'"):
        TritonBackend().prepare(nn.Identity(), None)


@torch.no_grad()
@pytest.mark.parametrize("added", [False, True])
def test_a_call_is_known_by_the_config_of_the_network(added):
    options = {"addition_embed_type": "text_time", "addition_time_embed_dim": 2,
               "projection_class_embeddings_input_dim": 20} if added else {}  # fmt: skip
    plain = tiny_conditional(**options)
    call = example_from_config(plain)
    assert plain(*call.args, **call.kwargs).sample.shape == (2, 4, 4, 4)
    assert call.kwargs["encoder_hidden_states"].shape == (2, 77, 8)
    pixels = example_from_config(tiny_unet((8,), size=8))
    assert tuple(pixels.args[0].shape) == (2, 3, 8, 8) and example_from_config(nn.Linear(2, 2)) is None
    plain.register_to_config(encoder_hid_dim_type="ip_image_proj")
    assert example_from_config(plain) is None


def test_the_gpu_of_the_network_is_asked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5) if device.index == 1 else (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    assert available.why_not_there(torch.device("cuda", 0)) is None
    assert "compute capability 7.5" in available.why_not_there(torch.device("cuda", 1))
    assert available.why_not_there(torch.device("cpu")) is None


def test_a_kernel_that_is_not_exact_is_refused(monkeypatch):
    """The sums of one tap are made wrong: what padding leaves out would be, on a GPU whose compiler errs."""
    from ptq4dm.backends.triton_gpu import layers

    network = quantized_copy(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)))
    TritonBackend().prepare(network, None)
    monkeypatch.setattr(layers, "tap_sums", lambda *arguments: wrong_sums(*arguments))
    with pytest.raises(BackendError, match=r"not exact on Triton's interpreter: layer '0' is .* float32 units off"):
        TritonBackend().prepare(network, None)


def wrong_sums(weight, taps, most):
    from ptq4dm.backends.triton_gpu.packing import tap_sums

    sums = tap_sums(weight, taps, most)
    sums[10] += 1  # the upper left corner
    return sums


def test_what_was_chosen_is_told():
    network = quantized_copy(nn.Sequential(nn.Conv2d(8, 8, 1), nn.SiLU(), nn.Conv2d(8, 8, 3, groups=8)))
    with pytest.warns(BackendWarning):
        told = TritonBackend().prepare(network, None).ptq4dm_layers
    assert [(one.layer, one.type, one.int8) for one in told] == [("0", "TritonConv", True), ("2", "simulated", False)]
    assert told[0].reason == "not measured: the network is not on a GPU" and "8 groups" in told[1].reason


def test_the_call_that_layers_are_timed_with_is_in_the_networks_type():
    network = quantized_copy(nn.Sequential(nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8))).half()
    x, t = torch.zeros(2, 8, 4, 4), torch.tensor([3])
    call = call_in_type(network, ptq4dm.Call((x, t), {"more": [x]}))
    types = [call.args[0].dtype, call.args[1].dtype, call.kwargs["more"][0].dtype]
    assert types == [torch.half, torch.int64, torch.half]
    assert call_in_type(quantized_copy(network.float()), ptq4dm.Call((x,))).args[0].dtype == torch.float32


@torch.no_grad()
def test_a_pipeline_is_accelerated_in_place_and_tells_of_another_time_axis():
    pipe = tiny_pipeline((8,), size=8)
    short = {"samples": 4, "steps": 2, "batch_size": 4}
    model = ptq4dm.quantize(pipe, ptq4dm.load_recipe("w8a8-minmax").replace(calibration=short, float_share=0.0))
    pipe = model.to_pipeline("simulated")
    ptq4dm.accelerate(pipe, TritonBackend(strict=True))
    assert pipe.unet.ptq4dm_backend == "triton" and all(one.int8 for one in pipe.unet.ptq4dm_layers)
    with pytest.warns(TimeAxisWarning, match="called at time-step 5000"):
        pipe.unet(torch.zeros(1, 3, 8, 8), 5000)
    with pytest.raises(ModelError, match="unet is on the triton backend, which keeps no other form of it"):
        ptq4dm.accelerate(pipe, "simulated")
