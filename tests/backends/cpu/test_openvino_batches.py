"""A batch in parts that run at once gives what it gives whole, and only where samples are independent."""

import pytest
import torch
from tiny import tiny_unet
from torch import Tensor, nn

from ptq4dm.backends.cpu.binding import bind
from ptq4dm.errors import BackendError
from ptq4dm.pipelines.denoiser import Call

pytest.importorskip("openvino")

from ptq4dm.backends.cpu.openvino.batches import BatchRunner, parts_of, shapes_of
from ptq4dm.backends.cpu.openvino.lower import lower


@pytest.fixture
def two_threads(monkeypatch):
    """The engine is given two; torch itself keeps one, since lowering many tiny operations with two takes tenfold."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


class MixesHalves(nn.Module):
    """As guidance inside an attention processor does: the first half of the batch acts on the second."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        first, second = x.chunk(2)
        return torch.cat([first, second + 0.01 * first * t])


class CentresBatch(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return (x - x.mean(0)) * t


class SumsBatch(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x.sum() * t


class UsesFirstTime(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x * t[0]


def test_integers_that_mix_samples_are_found():
    call = Call((torch.randn(4, 3, 8, 8), torch.tensor([900, 10, 20, 30])))
    assert not lower(UsesFirstTime(), bind(UsesFirstTime(), call)).independent


@pytest.mark.parametrize("network", [MixesHalves(), CentresBatch(), SumsBatch()])
def test_a_network_that_mixes_samples_is_not_cut(network):
    assert not lower(network, bind(network, Call((torch.randn(4, 3, 8, 8), torch.tensor(7.0))))).independent


@pytest.mark.parametrize("timestep", [torch.tensor(500), torch.tensor([1, 300, 600, 999])])
def test_parts_are_the_whole(two_threads, timestep):
    network = tiny_unet((8, 16), 16)
    x = torch.randn(4, 3, 16, 16)
    bound = bind(network, Call((x, timestep)))
    lowered = lower(network, bound)
    assert lowered.independent and parts_of(shapes_of(bound.tensors)) == 2
    runner = BatchRunner(lowered.model, shapes_of(bound.tensors), lowered.independent)
    assert tuple(runner.first.inputs[0].shape) == (2, 3, 16, 16)
    expected = network(x, timestep).sample
    first = runner((x, timestep))[0]
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-5)
    kept = first.clone()
    torch.testing.assert_close(runner((x.flip(0), timestep.flip(0) if timestep.dim() else timestep))[0].flip(0), kept)
    assert torch.equal(first, kept)  # a later answer lies in memory of its own


def test_what_is_not_cut(two_threads, monkeypatch):
    assert parts_of(((2, 3), ())) == 2
    assert parts_of(((3, 3), (3,))) == 1  # odd
    assert parts_of(((4, 3), (2, 5))) == 1  # which is the batch?
    assert parts_of(((), ())) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert parts_of(((2, 3), ())) == 1


def test_a_size_that_compiles_only_with_a_dynamic_batch_runs_so(monkeypatch):
    network, x = UsesFirstTime(), torch.randn(3, 3, 4, 4)
    bound = bind(network, Call((x, torch.tensor([3.0, 3.0, 3.0]))))
    run = BatchRunner(lower(network, bound).model, shapes_of(bound.tensors))
    monkeypatch.setattr(run, "compiled", refuse)
    for batch in (2, 1):
        (y,) = run((x[:batch], torch.full((batch,), 3.0)))
        torch.testing.assert_close(y, 3.0 * x[:batch])
    assert run.dynamic is not None and len(run.fixed) == 1


def refuse(shapes):
    """In place of compiling."""
    raise BackendError("not with these sizes")


@pytest.mark.parametrize("kind", [TypeError, ValueError, AssertionError, IndexError])
def test_what_fails_while_it_is_traced_is_told(kind):
    class Untraceable(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            if torch.jit.is_tracing():
                raise kind("its own reason")
            return x * t

    network = Untraceable()
    with pytest.raises(BackendError, match=r"cannot express Untraceable \(its own reason\): use backend='simulated'"):
        lower(network, bind(network, Call((torch.randn(2, 3, 4, 4), torch.tensor(1.0)))))
