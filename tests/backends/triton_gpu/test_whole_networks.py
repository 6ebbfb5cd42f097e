"""Small networks with all that large ones have, compiled to one graph, against the same networks simulated."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from int8_layers import quantized_copy
from interpreted import quickly_interpreted
from timed import CUTS
from tiny import tiny_unet
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu import self_check
from ptq4dm.backends.triton_gpu.attention import Int8AttnProcessor
from ptq4dm.backends.triton_gpu.blocks import FusedResnetBlock2D, FusedUpsample2D
from ptq4dm.backends.triton_gpu.residuals import AddingTransformerBlock
from ptq4dm.backends.triton_gpu.rounded_gates import RoundedActivation
from ptq4dm.backends.triton_gpu.rounded_norms import RoundedNorm
from ptq4dm.backends.triton_gpu.run import TritonBackend
from ptq4dm.backends.triton_gpu.up_blocks import FusedAttnUpBlock2D, FusedUpBlock2D
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.time_bands import set_bands
from ptq4dm.ranges.search import InputRange

FUSED = {FusedResnetBlock2D, FusedUpsample2D, FusedAttnUpBlock2D, RoundedNorm, Int8AttnProcessor}

OF_TEXT = FUSED - {FusedAttnUpBlock2D} | {FusedUpBlock2D}


@pytest.fixture(scope="module", autouse=True)
def quick_interpreter():
    with quickly_interpreted():
        yield


def of_text():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=4, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8, attention_head_dim=4, norm_num_groups=4,
    ).eval().requires_grad_(False)  # fmt: skip


def in_bands(network):
    """Every layer with another range for each band of time-steps."""
    names = [name for name, module in network.named_modules() if isinstance(module, QuantizedLayer)]
    ranges = [InputRange(scale, zero, 0.0, 0.0, 0.0) for scale, zero in ((0.02, 77), (0.03, 120), (0.05, 100))]
    set_bands(network, "timestep", CUTS, dict.fromkeys(names, ranges))
    return network


NETWORKS = {
    "bands, scale and shift": (
        lambda: tiny_unet((8, 16), size=4, attention=True, resnet_time_scale_shift="scale_shift"), in_bands, FUSED,
    ),
    "text": (of_text, lambda network: network, OF_TEXT | {AddingTransformerBlock, RoundedActivation}),
}  # fmt: skip


def distance(a, b):
    return float((a - b).norm() / b.norm())


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_it_compiles_to_one_graph_and_gives_what_the_simulated_network_gives(name, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(self_check, "self_check", lambda *arguments: None)  # other tests see to that
    make, finish, kinds = NETWORKS[name]
    plain = make()
    simulated = finish(quantized_copy(plain))
    counter = (
        CompileCounterWithBackend("aot_eager") if name == "text" else CompileCounter()
    )  # fakes are asked by the first
    prepared = TritonBackend(strict=True).prepare(simulated, None)
    modules = list(prepared.modules())
    assert {type(item) for module in modules for item in (module, getattr(module, "processor", None))} >= kinds
    assert not any(isinstance(module, QuantizedLayer) for module in modules)
    compiled = torch.compile(lambda *a, **k: prepared(*a, **k).sample, backend=counter, fullgraph=True)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, prepared.config.in_channels, 4, 4, generator=generator)
    more = {"encoder_hidden_states": torch.randn(2, 3, 8, generator=generator)} if name == "text" else {}
    t = torch.tensor([10, 800])  # in two bands
    for given in (x, t, *more.values()):
        torch._dynamo.mark_dynamic(given, 0)  # an error if the trace holds for one batch alone
    expected, floats = simulated(x, t, **more).sample, plain(x, t, **more).sample
    assert distance(compiled(x, t, **more), expected) < 5e-3 < distance(floats, expected)
    assert counter.frame_count == 1
