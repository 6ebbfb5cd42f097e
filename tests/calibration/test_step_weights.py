"""w(t) against closed forms of linear networks, and against trajectories that are disturbed from outside."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor, nn

from ptq4dm.calibration.call_errors import Error, error_of, noise_of_size
from ptq4dm.calibration.step_weights import StepWeights, measure_step_weights, spread
from ptq4dm.errors import CalibrationError
from ptq4dm.pipelines.sampling import seeded_start, trajectory
from ptq4dm.pipelines.schedulers import make_scheduler

T, SHAPE, SEEDS, SPREAD = 1000, (2, 3, 3), [5, 6, 7], 0.1
PLAIN = {"num_train_timesteps": T, "clip_sample": False}
ALPHAS_BAR = DDIMScheduler(**PLAIN).alphas_cumprod.double()


class Linear(nn.Module):
    """ε(x, t) = factor c(t) x, c(t) such that pictures are N(0, SPREAD²); in float64; counts what it is called on."""

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))
        self.rows = 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.rows += len(x)
        return self.factor * slope(int(t)) * x


def slope(t: int) -> float:
    a = float(ALPHAS_BAR[t])
    return (1 - a) ** 0.5 / (a * SPREAD**2 + 1 - a)


def ddim(now: float, then: float) -> tuple[float, float]:
    """x_{t-1} = A x_t + B ε under DDIM."""
    a = (then / now) ** 0.5
    return a, (1 - then) ** 0.5 - a * (1 - now) ** 0.5


def ddpm(now: float, then: float) -> tuple[float, float]:
    """The same of the mean of DDPM's posterior (Ho et al., arXiv 2006.11239, eq. 11)."""
    alpha = now / then
    return alpha**-0.5, -(alpha**-0.5) * (1 - alpha) / (1 - now) ** 0.5


def derivatives(timesteps: list[int], update) -> list[float]:
    """|∂x_0 / ∂ε_t| at each visit, the network being linear: B_k Π (A_j + B_j c_j) over the later visits j."""
    levels = [float(ALPHAS_BAR[t]) for t in timesteps] + [1.0]
    steps = [update(now, then) for now, then in itertools.pairwise(levels)]
    found = []
    for k, (_, b) in enumerate(steps):
        later = [steps[j][0] + steps[j][1] * slope(timesteps[j]) for j in range(k + 1, len(steps))]
        found.append(abs(b * float(np.prod(later))))
    return found


def measured(scheduler, steps: int = 8, error: Error | None = None, **options) -> tuple[StepWeights, Linear]:
    network = Linear()
    made = measure_step_weights(network, scheduler, steps, SHAPE, SEEDS, error or noise_of_size(0.01, 0), **options)
    return made, network


@pytest.mark.parametrize(
    ("error", "size"), [(noise_of_size(0.01, 3), 0.01), (error_of(Linear(1.02)), 0.02)], ids=["noise", "wrong network"]
)
def test_under_ddim_it_is_the_derivative_of_the_picture(error: Error, size: float) -> None:
    made, network = measured(DDIMScheduler(**PLAIN), error=error)
    wanted = derivatives([int(t) for t in made.timesteps], ddim)
    assert made.weights == pytest.approx(wanted, rel=1e-4)
    assert max(wanted) > 2 * min(wanted)  # or the test could not tell them apart
    assert made.standard_errors == pytest.approx([0.0] * 8, abs=1e-3 * max(wanted))
    assert made.calls_made == network.rows
    assert made.errors == pytest.approx([size] * 8, rel=1e-6)


def test_noise_that_a_sampler_draws_is_the_same_with_and_without_the_error() -> None:
    made, _ = measured(DDPMScheduler(**PLAIN), steps=T // 100)
    wanted = derivatives([int(t) for t in made.timesteps], ddpm)
    assert made.weights == pytest.approx(wanted, rel=1e-3)


class Disturbed(nn.Module):
    """A network whose call number `index` is off by a given error."""

    def __init__(self, network: nn.Module, index: int, error: Error):
        super().__init__()
        self.network, self.index, self.error, self.calls, self.size = network, index, error, 0, torch.ones(1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        output = self.network(x, t)
        if self.calls == self.index:
            injected = self.error(x, t, output)
            self.size, output = injected.flatten(1).norm(dim=1), output + injected
        self.calls += 1
        return output


def picture(network: nn.Module, scheduler, steps: int) -> Tensor:
    x_T, generators = seeded_start(SHAPE, SEEDS)
    walk = trajectory(network, scheduler, steps, x_T.double(), generators)
    while True:
        try:
            next(walk)
        except StopIteration as end:
            return end.value.clamp(-1, 1)


@pytest.mark.parametrize("name", ["dpmsolver++", "unipc", "pndm", "euler", "ddim-clipped"])
def test_samplers_that_remember_go_on_from_what_they_remember(name: str) -> None:
    scheduler, error = make_scheduler(name, DDPMScheduler(num_train_timesteps=T).config), noise_of_size(0.05, 1)
    made = measure_step_weights(Linear64(), scheduler, 6, SHAPE, SEEDS, error)
    plain = picture(Linear64(), scheduler, 6)
    for index in made.measured:
        network = Disturbed(Linear64(), index, error)
        change = (picture(network, scheduler, 6) - plain).flatten(1).norm(dim=1)
        wanted = float((change / network.size).square().mean().sqrt())
        assert made.weights[index] == pytest.approx(wanted, rel=1e-6, abs=1e-9 * max(made.weights))


class Linear64(Linear):
    """At time-steps between whole ones too."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.factor * slope(round(float(t))) * x + 0.01 * x.square()


def test_visits_that_are_not_measured_lie_on_a_straight_line_of_logarithms() -> None:
    made, network = measured(DDIMScheduler(**PLAIN), steps=9, most=3)
    wanted = derivatives([int(t) for t in made.timesteps], ddim)
    assert made.measured == (0, 4, 8)
    assert [made.weights[index] for index in made.measured] == pytest.approx([wanted[i] for i in (0, 4, 8)], rel=1e-4)
    assert made.weights[2] == pytest.approx((wanted[0] * wanted[4]) ** 0.5, rel=1e-4)
    assert network.rows == made.calls_made == 3 * (9 + 8 + 4 + 0)
    assert spread(50, 25)[0] == 0 and spread(50, 25)[-1] == 49 and len(spread(50, 25)) == 25 and spread(1, 25) == [0]


def test_an_interrupted_measurement_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path, plain, calls = tmp_path / "w.json", noise_of_size(0.01, 0), []

    def failing(x: Tensor, t: Tensor, output: Tensor) -> Tensor:
        calls.append(int(t))
        if len(calls) > 2:
            raise KeyboardInterrupt
        return plain(x, t, output)

    with pytest.raises(KeyboardInterrupt):
        measured(DDIMScheduler(**PLAIN), error=failing, cache=path)
    whole, everything = measured(DDIMScheduler(**PLAIN))
    resumed, rest = measured(DDIMScheduler(**PLAIN), cache=path)
    assert resumed.weights == whole.weights and resumed.errors == whole.errors
    assert rest.rows == everything.rows - 3 * (7 + 6)
    path.write_text("[1, 2")
    again, _ = measured(DDIMScheduler(**PLAIN), cache=path)
    assert again.weights == whole.weights


def test_a_network_without_errors_gives_no_weights() -> None:
    with pytest.raises(CalibrationError, match=r"changes no final picture.*use another law.*'ndtc'"):
        measured(DDIMScheduler(**PLAIN), error=error_of(Linear()))


def test_shares_and_the_law_follow_a_power_of_the_weights() -> None:
    made = StepWeights((900.0, 500.0, 500.0, 0.0), (1.0, 2.0, 2.0, 1.0), (0,), (0.0,), (0.0,), 1, 1, 0.0)
    assert made.shares(2).tolist() == pytest.approx([0.1, 0.4, 0.4, 0.1])
    assert made.shares(1).tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 3, 1 / 6])
    options = made.law_options(2)
    assert options["timesteps"] == [900, 500, 0]
    assert options["weights"] == pytest.approx([0.1, 0.8, 0.1])
