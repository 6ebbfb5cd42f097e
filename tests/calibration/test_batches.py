import pytest
import torch
from torch import nn

from ptq4dm.calibration.batches import calls_of_batches, require_runnable
from ptq4dm.errors import CalibrationError
from ptq4dm.pipelines.denoiser import Call


class Score(nn.Module):
    """A score network as users write them: the noise level is an argument of its own."""

    def forward(self, x, sigma, labels=None, *, scale=1.0):
        return x * scale


class Open(nn.Module):
    def forward(self, x, **conditions):
        return x


X = torch.randn(4, 3, 8, 8)


def timesteps_of(batches, timestep, module=None):
    return [values for _, values in calls_of_batches(module or Score(), batches, timestep)]


def test_calls_are_the_users_own_arguments():
    labels = torch.zeros(4)
    batches = [((X, torch.ones(4)), {"labels": labels}), Call((X,), {"sigma": 2.0, "scale": 3.0})]
    calls = [call for call, _ in calls_of_batches(Score(), batches, "sigma")]
    assert calls[0].args[0] is X and calls[0].kwargs["labels"] is labels
    assert calls[1] is batches[1]


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((X, torch.tensor([1.0, 2.0, 3.0, 4.0])), {}, [1.0, 2.0, 3.0, 4.0]),
        ((X,), {"sigma": torch.tensor([1, 2, 3, 4]).view(4, 1, 1, 1)}, [1, 2, 3, 4]),
        ((X, torch.tensor(5.0)), {}, [5.0] * 4),
        ((X, torch.tensor([5.0])), {}, [5.0] * 4),
        ((X, 7), {}, [7] * 4),
        ((X,), {"sigma": 0.5}, [0.5] * 4),
    ],
)
def test_one_time_step_a_sample(args, kwargs, expected):
    (found,) = timesteps_of([(args, kwargs)], "sigma")
    assert found.tolist() == expected


def test_a_function_or_nothing_gives_the_time_step():
    batches = [((X, 3.0), {})]
    (found,) = timesteps_of(batches, lambda args, kwargs: args[1] * 2)
    assert found.tolist() == [6.0] * 4
    assert timesteps_of(batches, None) == [None]


def test_open_ended_arguments():
    (found,) = timesteps_of([((X,), {"level": 3})], "level", Open())
    assert found.tolist() == [3] * 4
    with pytest.raises(CalibrationError, match="calibration batch 0 has no argument 'levle'"):
        timesteps_of([((X,), {"level": 3})], "levle", Open())


def test_batches_are_taken_one_by_one():
    def endless():
        while True:
            yield (X, 1.0), {}

    calls = calls_of_batches(Score(), endless(), "sigma")
    assert [next(calls)[1].tolist() for _ in range(3)] == [[1.0] * 4] * 3


def test_an_unknown_argument_is_said_before_any_batch():
    with pytest.raises(CalibrationError, match=r"timestep = 't' is no argument of Score\.forward: accepted are x"):
        calls_of_batches(Score(), [], "t")


@pytest.mark.parametrize("batches", [5, None])
def test_batches_that_cannot_be_gone_through(batches):
    with pytest.raises(CalibrationError, match=f"calibration_batches = {batches} cannot be gone through: give a list"):
        calls_of_batches(Score(), batches, "sigma")


class Strict(nn.Module):
    """A network that says which calls it was given, and takes three channels."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, labels=None):
        self.seen.append(x.shape)
        if x.shape[1] != 3:
            raise ValueError(f"{x.shape[1]} channels\nfor 3")
        return x


def test_a_call_of_each_form_is_tried():
    calls = [Call((X,)), Call((X + 1,)), Call((X[:2],)), Call((X.double(),)), Call((X, {"a": X})), Call((X, {"b": X}))]
    network = Strict().train()
    require_runnable(network, [(call, None) for call in calls])
    assert network.seen == [X.shape, X[:2].shape, X.shape, X.shape, X.shape]
    assert network.training


def test_a_call_that_fails_is_named():
    calls = [(Call((X,)), None), (Call((X[:, :2],)), None)]
    with pytest.raises(
        CalibrationError, match=r"Strict cannot be run on calibration batch 1 \(ValueError: 2 channels for 3\): give"
    ):
        require_runnable(Strict(), calls)


NAN = X.clone()
NAN[2, 1, 0, 0] = torch.nan


@pytest.mark.parametrize(
    ("batches", "timestep", "message"),
    [
        ([], "sigma", "no calibration batches: give at least one"),
        (iter(()), "sigma", "no calibration batches"),
        ([X], "sigma", r"calibration batch 0 is a Tensor: it should be \(args, kwargs\)"),
        ([(X, torch.ones(4))], "sigma", "calibration batch 0 is a tuple"),
        ([((X, 1.0), {}), ((X, 1.0), {}, 3)], "sigma", "calibration batch 1 is a tuple"),
        ([((X, 1.0), {"lables": 1})], "sigma", "does not fit the network's forward.*'lables'"),
        ([((X,), {})], "sigma", "calibration batch 0 does not fit"),
        ([((X, 1.0), {}), ((NAN, 1.0), {})], "sigma", "calibration batch 1: argument x holds NaN or infinity"),
        ([((X, torch.tensor(torch.inf)), {})], "sigma", "calibration batch 0: argument sigma holds NaN"),
        ([((X, float("nan")), {})], "sigma", "calibration batch 0: its time-step holds NaN"),
        ([((X, torch.ones(3)), {})], "sigma", "calibration batch 0: 3 time-steps for 4 samples"),
        ([((X, 1.0), {}), ((X[:0], 1.0), {})], "sigma", "calibration batch 1 holds no samples: leave it out"),
        ([((X, 1.0), {})], "labels", "its time-step is None, and should be a number or a tensor"),
        ([((X, 1.0), {})], 3, "timestep = 3 should be an argument name"),
    ],
)
def test_bad_batches(batches, timestep, message):
    with pytest.raises(CalibrationError, match=message):
        list(calls_of_batches(Score(), batches, timestep))
