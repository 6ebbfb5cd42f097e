"""Time-step-dependent scales on OpenVINO: exact in every band, also where samples of one call are in several."""

import pytest
import torch
from timed import CUTS, RANGES, TIMES, band_of, banded, inputs

from ptq4dm.backends.cpu.openvino.run import OpenVINOBackend
from ptq4dm.backends.exactness import ULPS_ALLOWED, ulp_distance
from ptq4dm.errors import BackendError
from ptq4dm.pipelines.denoiser import Call

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def pair():
    """A network with bands, simulated in float64, and on the engine."""
    network = banded()
    example = Call(inputs())
    module = OpenVINOBackend().prepare(network, example)
    graphs = module.ptq4dm_engine.graphs.values()
    assert len(graphs) == len(CUTS) + 1  # ahead of the first call
    assert all(layer.int8 for graph in graphs for layer in graph.executed)
    return banded().double(), module


def on_grid(times):
    """Integers of each sample's own band, as floats, and the time-steps."""
    x, t = inputs(times)
    q = torch.randint(0, 256, x.shape, generator=torch.Generator().manual_seed(2))
    rows = [(integers - RANGES[band_of(time)][1]) * RANGES[band_of(time)][0] for integers, time in zip(q, times)]
    return torch.stack(rows), t


def farthest(exact, module, x, t):
    wanted, got = exact(x.double(), t)[0], module(x, t)[0]
    product = wanted - exact.conv.bias.view(-1, 1, 1)
    return float(ulp_distance(got, wanted, product).max())


def test_every_band_is_exact(pair):
    for time in TIMES:
        x, t = on_grid((time,) * 2)
        assert farthest(*pair, x, t) <= ULPS_ALLOWED
    x, t = on_grid((999,))
    assert farthest(*pair, x, t[0]) <= ULPS_ALLOWED


def test_samples_in_several_bands_are_exact_and_stand_where_they_stood(pair):
    exact, module = pair
    for times in (TIMES, TIMES[::-1], (500, 0, 999, 99, 100, 0)):
        x, t = on_grid(times)
        assert farthest(exact, module, x, t) <= ULPS_ALLOWED
        first, second, doubled = module(x, t)
        assert torch.equal(doubled, 2.0 * t) and second.shape == (6, 5, 5, 4)
        apart = [module(x[i : i + 1], t[i : i + 1]) for i in range(6)]
        assert torch.equal(first, torch.cat([part[0] for part in apart]))


def test_a_graph_is_found_by_the_value_of_t(pair):
    _, module = pair
    x, t = on_grid(TIMES)
    engine = module.ptq4dm_engine
    before = len(engine.graphs)
    once = {time: module(x[i : i + 1], t[i : i + 1])[1] for i, time in enumerate(TIMES)}
    again = {time: module(x[i : i + 1], t[i : i + 1])[1] for i, time in reversed(list(enumerate(TIMES)))}
    assert all(torch.equal(once[time], again[time]) for time in TIMES)
    assert len(engine.graphs) == before


def test_a_network_that_mixes_samples_takes_one_band_a_call():
    x, t = inputs()
    module = OpenVINOBackend().prepare(banded(mixing=True), None)
    with pytest.raises(BackendError, match="time-steps in 3 bands of its scales, and mixes the samples of a call"):
        module(x, t)
    assert module(x[:2], t[:2])[0].shape == (2, 8, 5, 5)  # 0 and 99 are in one band
