"""Reading a tensor's value in Python: in many ways, and what is none."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ptq4dm.backends.cpu.onnxruntime.float_baseline import compile_float
from ptq4dm.backends.cpu.reads import reads_values
from ptq4dm.errors import BackendError
from ptq4dm.export import trace
from ptq4dm.pipelines.denoiser import Call

READING = {
    "item": lambda x, t: x * t[0].item(),
    "if": lambda x, t: x if t[0] > 3 else -x,
    "if of a reduction": lambda x, t: x if (t > 3).any() else -x,
    "float": lambda x, t: x * float(t[0]),
    "equal": lambda x, t: x if torch.equal(t, t + 1) else -x,
    "allclose": lambda x, t: x * torch.allclose(x, x),
    "tolist": lambda x, t: x * t.tolist()[0],
    "numpy": lambda x, t: x * int(t.numpy()[0]),
    "as an array": lambda x, t: x * int(np.asarray(t)[0]),
    "range": lambda x, t: x * sum(range(t[0])),
    "size of a new tensor": lambda x, t: x.sum() * torch.arange(t[0]),
    "value of a new tensor": lambda x, t: x * torch.full((1,), t[0]),
    "slice": lambda x, t: x[:, : t[0]],
    "in": lambda x, t: x * (5 in t),
    "max": lambda x, t: x * max(t),
    "numbers made into a tensor": lambda x, t: x * torch.tensor([t[0], t[1]])[:, None],
    "a tensor like it of numbers": lambda x, t: x * x.new_tensor([t[0], t[1]])[:, None],
    "the old constructor": lambda x, t: x * torch.Tensor([t[0], t[1]])[:, None],
    "a function of each value": lambda x, t: x * t.clone().apply_(lambda value: 2 * value)[:, None],
    "a copy": lambda x, t: x * copy.deepcopy(t)[:, None],
    "how many are not zero": lambda x, t: x if (t > 6).nonzero().numel() else -x,
    "how many a mask lets through": lambda x, t: x if len(t[t > 6]) else -x,
    "how many differ": lambda x, t: x * len(t.unique()),
    "how often": lambda x, t: torch.repeat_interleave(x, t, 0),
    "control flow as an operator": lambda x, t: torch.cond(t[0] > 3, lambda x: x, lambda x: -x, (x,)),
}
NOT_READING = {
    "products": lambda x, t: x * t[:, None],
    "sizes": lambda x, t: x * t.numel() * x.shape[0] * len(t) * x.dim(),
    "types": lambda x, t: x.to(torch.promote_types(x.dtype, t.dtype)),
    "choice by a tensor": lambda x, t: torch.where(t[:, None] > 3, x, -x),
    "rows by number": lambda x, t: x[(t - 5) // 2] * t[:, None],
    "rows": lambda x, t: sum(row for row in x) * t.sum(),
}


@pytest.mark.parametrize("way", READING)
def test_reading_is_seen(way):
    assert reads_values(READING[way], (torch.randn(2, 3), torch.tensor([5, 7])))


@pytest.mark.parametrize("way", NOT_READING)
def test_what_stays_in_tensors_is_no_reading(way):
    assert not reads_values(NOT_READING[way], (torch.randn(2, 3), torch.tensor([5, 7])))


class Counted(nn.Module):
    """Counts its calls."""

    def __init__(self):
        super().__init__()
        self.made = 0

    def forward(self, x, timestep):
        self.made += 1
        return x * timestep


class Blind(nn.Module):
    """No number for most noise levels, and a constant of every trace."""

    def forward(self, x, sigma):
        return x * (sigma - 20).sqrt() * sigma.item()


class Branching(Counted):
    """Reads its time-step, and says the same whatever that is."""

    def forward(self, x, timestep):
        return super().forward(x, timestep) if timestep > 500 else super().forward(timestep, x)


class Baked(nn.Module):
    """Its time-step is a constant of every trace."""

    def forward(self, x, timestep):
        return x * timestep.item()


def test_only_a_network_that_reads_is_called_with_many_values():
    few, many = Counted(), Branching()
    for network in (few, many):
        compile_float(network, Call((torch.randn(2, 2), torch.tensor(3.0))))
    assert few.made + 8 < many.made


def test_one_other_value_is_tried_where_no_reading_was_seen(monkeypatch):
    monkeypatch.setattr(trace, "reads_values", lambda network, tensors: False)
    with pytest.raises(BackendError, match="Baked reads timestep in Python"):
        compile_float(Baked(), Call((torch.randn(2, 2), torch.tensor(3.0))))


def test_an_answer_that_is_no_number_proves_nothing(monkeypatch):
    monkeypatch.setattr(trace, "reads_values", lambda network, tensors: False)
    with pytest.raises(BackendError, match="Blind reads sigma in Python"):
        compile_float(Blind(), Call((torch.randn(2, 2), torch.tensor(3.0))))
