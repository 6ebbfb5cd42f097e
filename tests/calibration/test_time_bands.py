"""By which argument a network is told its time-step, and what is refused before the long work."""

import pytest
from torch import nn

from ptq4dm.calibration.time_bands import argument_of, require_named
from ptq4dm.errors import RecipeError
from ptq4dm.pipelines.denoisers import Run, Visit


def run_of(*timesteps: float) -> Run:
    visits = tuple(Visit("scheduler", t, ("unet",)) for t in timesteps)
    return Run((*visits, Visit("scheduler", -5.0, ("other",))), {}, {}, {})


def test_the_argument_that_counts_as_the_scheduler_does() -> None:
    axis = {"argument": "timestep", "low": 1.0, "high": 981.0}
    assert argument_of("unet", run_of(981.0, 500.0, 1.0), axis) == "timestep"


@pytest.mark.parametrize(("low", "high"), [(0.001, 0.981), (1.0, 500.0), (20.0, 981.0)])
def test_other_units_are_refused_with_the_mend(low: float, high: float) -> None:
    axis = {"argument": "timestep", "low": low, "high": high}
    with pytest.raises(RecipeError, match=r"unet is told timestep from .* counts from 1 to 981: set .* time_bands = 1"):
        argument_of("unet", run_of(981.0, 500.0, 1.0), axis)


def test_a_network_without_a_time_step_is_refused_with_the_mend() -> None:
    with pytest.raises(RecipeError, match=r"no argument of prior is seen to be a time-step .* time_bands = 1"):
        argument_of("prior", run_of(1.0), None)
    assert require_named("t") == "t"
    with pytest.raises(RecipeError, match="timestep = a function: give its name"):
        require_named(nn.Identity())
