"""Answers said again: the same shares to the bit, and layers that really are not run."""

from collections import Counter

import pytest
import torch
from torch import nn

from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization import sensitivity
from ptq4dm.quantization.plan import make_plan
from ptq4dm.quantization.recorded import recording
from ptq4dm.quantization.rewrite import quantize_layers
from ptq4dm.quantization.sensitivity import error_shares
from ptq4dm.ranges.observe import observe
from ptq4dm.ranges.range_table import choose_ranges
from ptq4dm.recipe import RangeRecipe, WeightRecipe


class Network(nn.Module):
    """A chain with a layer that is called twice, and one whose answer is written into."""

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.written, self.last = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        x = self.twice(torch.relu(self.twice(self.first(x))))
        return self.last(self.written(x).mul_(0.5).add_(x))


CALL = Call((torch.randn(8, 16, generator=torch.Generator().manual_seed(1)),))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network().eval().requires_grad_(False)


@pytest.fixture
def layers(network):
    statistics = observe(network, ["first", "twice", "written", "last"], [(CALL, None)], shown=False)
    plan = make_plan(network, statistics=statistics)
    return quantize_layers(network, plan, choose_ranges(statistics, RangeRecipe(), shown=False), WeightRecipe())


def test_shares_are_those_of_whole_runs_to_the_bit(network, layers, monkeypatch):
    found = error_shares(network, layers, [CALL])
    monkeypatch.setattr(sensitivity, "recording", lambda network, names: recording(network, names, room=0))
    assert found == error_shares(network, layers, [CALL])
    assert len(set(found.values())) == 4 and min(found.values()) > 0


def test_what_comes_before_is_not_run_again(network, layers, monkeypatch):
    names = {module: name for name, module in network.named_modules()}
    made, forward = Counter(), nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: made.update([names[self]]) or forward(self, x))
    error_shares(network, layers, [CALL])
    # one float run; then with each other layer alone in INT8 those behind it, and one called twice wherever it is
    assert made == {"first": 1, "twice": 2 + 2 * 3, "written": 1 + 2, "last": 1 + 3}


@pytest.mark.parametrize(
    ("room", "kept"),
    [
        (0, []),
        (511, []),
        (512, ["first"]),
        (2 * 512, ["first", "written"]),
        (9 * 512, ["first", "written", "last"]),
    ],
)
def test_room_goes_to_the_first(network, room, kept):
    with recording(network, ["last", "written", "twice", "first"], room) as found:
        network(*CALL.args)
    assert found.order == ["first", "twice", "written", "last"] and list(found.kept) == kept
    assert not any(module._forward_hooks for module in network.modules())
    assert set(found.before("last")) == set(kept) - {"last"} and found.before("first") == found.before("unknown") == {}


def test_hooks_of_others_see_what_is_said_again(network, layers):
    alone = error_shares(network, layers, [CALL])
    network.first.register_forward_hook(lambda module, args, output: 2 * output)
    hooked = error_shares(network, layers, [CALL])
    network.first.register_forward_hook(lambda module, args, output: output / 2)
    assert error_shares(network, layers, [CALL]) == pytest.approx(alone, rel=1e-6) and hooked != alone


def test_each_time_it_is_said_anew(network):
    with recording(network, ["first", "last"]) as found:
        network(*CALL.args)
    say = found.before("last")["first"]
    once = say(CALL.args[0])
    before = once.clone()
    once.zero_()
    assert torch.equal(say(CALL.args[0]), before)
