"""A graph holds what its network was told in place (attention processors, FreeU); told otherwise, it needs another."""

import pytest
import torch
from conditional import tiny_conditional
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ptq4dm.backends.cpu.engine import Compiled, Engine
from ptq4dm.backends.cpu.state import settings_of
from ptq4dm.pipelines.denoiser import Call


class Scaled(AttnProcessor2_0):
    """Attention times a plain attribute, as an IP-Adapter's `scale`."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = [scale]

    def __call__(self, *args, **kwargs):
        return self.scale[0] * super().__call__(*args, **kwargs)


def call() -> Call:
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 12, generator=generator)
    return Call((x, torch.tensor(500)), {"encoder_hidden_states": text})


class Attends(nn.Module):
    """Attention and nothing else."""

    def __init__(self):
        super().__init__()
        self.attention = Attention(8, heads=2, dim_head=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x)


@torch.no_grad()
def test_openvino_follows_attention_processors_and_their_attributes():
    pytest.importorskip("openvino")
    from ptq4dm.backends.cpu.openvino import compile_float

    torch.manual_seed(0)
    network, x = Attends().eval(), torch.randn(2, 5, 8)
    network.attention.set_processor(Scaled(1.0))
    fast = compile_float(network, Call((x,)))
    first = network(x)
    torch.testing.assert_close(fast(x), first, rtol=1e-4, atol=1e-5)
    network.attention.processor.scale[0] = 0.25
    assert (network(x) - first).norm() > 0.5 * first.norm()
    torch.testing.assert_close(fast(x), network(x), rtol=1e-4, atol=1e-5)
    network.attention.set_processor(AttnProcessor2_0())
    torch.testing.assert_close(fast(x), first, rtol=1e-4, atol=1e-5)
    assert len(fast.ptq4dm_engine.graphs) == 3
    network.attention.set_processor(Scaled(1.0))  # as at first
    torch.testing.assert_close(fast(x), first, rtol=1e-4, atol=1e-5)
    assert len(fast.ptq4dm_engine.graphs) == 3


def test_freeu_makes_another_graph_and_without_it_the_first_runs_again():
    compiled = []

    def compile_graph(network, bound):
        compiled.append(network.up_blocks[0].__dict__.get("b1"))
        return Compiled(lambda tensors: list(tensors), pytree.tree_structure([0] * 3))

    network = tiny_conditional()
    engine = Engine(network, None, compile_graph)
    run = lambda: engine(*call().args, **call().kwargs)  # noqa: E731
    run()
    network.enable_freeu(s1=0.2, s2=0.2, b1=1.8, b2=1.8)
    run()
    run()
    network.enable_freeu(s1=0.2, s2=0.2, b1=1.4, b2=1.8)
    run()
    network.disable_freeu()
    run()
    assert compiled == [None, 1.8, 1.4]


def test_what_calls_leave_behind_is_no_setting():
    network = tiny_conditional()
    before = settings_of(network)
    with torch.no_grad():
        network(*call().args, **call().kwargs)
    assert settings_of(network) == before
    assert len(before) == len(network.attn_processors) > 0
