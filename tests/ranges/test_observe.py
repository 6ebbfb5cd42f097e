import numpy as np
import pytest
import torch
from torch import nn

from ptq4dm.errors import CalibrationError
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.ranges.histograms import BINS, band_edges
from ptq4dm.ranges.observe import observe


class Net(nn.Module):
    """A convolution called twice, a linear layer on tokens, one on the time-step, one on (batch * heads) rows."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.token, self.time, self.head = nn.Linear(2, 2), nn.Linear(1, 2), nn.Linear(2, 2)
        self.unused = nn.Linear(2, 2)

    def forward(self, x, t):
        h = self.conv(self.conv(x)) + self.time(input=t.float().reshape(-1, 1))[:, :, None, None]
        tokens = self.token(h.flatten(2).transpose(1, 2))
        return self.head(torch.cat([tokens[:, None], tokens[:, None]], 1).flatten(0, 1))


LAYERS = ("conv", "token", "time", "head", "unused")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Net().train()


def calls(x, t, size):
    return [(Call((x[i : i + size], t[i : i + size])), t[i : i + size]) for i in range(0, len(x), size)]


def test_each_sample_goes_to_the_band_of_its_own_time_step(network):
    x, t = torch.randn(6, 2, 4, 4), torch.tensor([5, 95, 5, 55, 95, 5])
    x[t == 5] *= 100
    edges = band_edges(10, 0, 100)
    found = observe(network, LAYERS, calls(x, t, 6), edges, shown=False)
    assert set(found) == {"conv", "token", "time", "head"}
    with torch.no_grad():
        second = network.conv(x)
    for band, step in ((0, 5), (5, 55), (9, 95)):
        expected = torch.cat([x[t == step], second[t == step]]).double()
        assert found["conv"].low[band] == pytest.approx(float(expected.min()), rel=1e-5)
        assert found["conv"].high[band] == pytest.approx(float(expected.max()), rel=1e-5)
        assert found["conv"].positions[band] == 2 * 16 * int((t == step).sum())
        assert found["head"].positions[band] == 2 * 16 * int((t == step).sum())
        assert found["time"].low[band] == found["time"].high[band] == step
    assert found["conv"].counts[[1, 2, 3, 4, 6, 7, 8]].sum() == 0
    np.testing.assert_allclose(
        found["conv"].channel_mean(), torch.cat([x, second]).mean((0, 2, 3)).double(), rtol=1e-3, atol=1e-4
    )


def test_batch_size_does_not_matter(network):
    x, t = torch.randn(6, 2, 4, 4), torch.arange(6) * 15
    edges = band_edges(4, 0, 100)
    whole, single = (observe(network, ("conv",), calls(x, t, size), edges, shown=False)["conv"] for size in (6, 1))
    assert whole.exponent == single.exponent
    # float32 convolutions of another batch size may differ in the last bit: a value may cross into the next bin
    assert (whole.counts.cumsum(1) - single.counts.cumsum(1)).abs().max() <= 2
    assert torch.equal(whole.positions, single.positions)


def test_modes_and_hooks_are_as_before(network):
    network.token.eval()
    observe(network, LAYERS, calls(torch.randn(2, 2, 4, 4), torch.tensor([1, 2]), 2), shown=False)
    assert network.training and network.conv.training and not network.token.training
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_no_time_steps_means_one_band(network):
    x = torch.randn(2, 2, 4, 4)
    found = observe(network, ("conv",), [(Call((x, torch.zeros(2))), None)], shown=False)["conv"]
    assert found.bands == 1 and found.counts.shape == (1, BINS) and found.positions.tolist() == [64]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_name_layer_and_time_step(network, bad):
    x = torch.randn(3, 2, 4, 4)
    x[1, 0, 0, 0] = bad
    with pytest.raises(CalibrationError, match=r"layer conv is NaN or infinite at time-step 77"):
        observe(network, LAYERS, calls(x, torch.tensor([5, 77, 9]), 3), band_edges(5, 0, 100), shown=False)
    assert not network.conv._forward_pre_hooks


def test_no_calls(network):
    with pytest.raises(CalibrationError, match="at least one sample"):
        observe(network, LAYERS, [], shown=False)


def test_rows_that_cannot_be_told_apart_are_refused():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x, t):
            return self.layer(x.mean(0, keepdim=True).expand(4, -1))

    x = torch.randn(3, 2)
    with pytest.raises(CalibrationError, match=r"layer layer got 4 rows for 3 samples"):
        observe(Pooled(), ("layer",), calls(x, torch.tensor([1, 50, 99]), 3), band_edges(5, 0, 100), shown=False)
    same = observe(Pooled(), ("layer",), calls(x, torch.tensor([50, 51, 52]), 3), band_edges(5, 0, 100), shown=False)
    assert same["layer"].positions.tolist() == [0, 0, 4, 0, 0]
