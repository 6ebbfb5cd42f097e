"""By which argument, and in which units, a network is told its time-step: what bands of time-steps are looked up by."""

from collections.abc import Mapping
from typing import Any, Final

from ptq4dm.errors import RecipeError
from ptq4dm.pipelines.denoisers import Run

TIMESTEP: Final = "timestep"
"""The argument of the networks of unconditional models."""
CLOSE: Final = 1e-6
"""Relative difference up to which two time-steps are the same."""
MEND: Final = "set [activations] time_bands = 1"


def argument_of(component: str, run: Run, axis: Mapping[str, Any] | None) -> str:
    """The argument by which a pipeline tells a denoiser the time-step. axis: its name and span (`time_axis_of`).

    Raises RecipeError where none is seen to change, or where it is counted in other units than the scheduler's, in
    which the calibration is.
    """
    if axis is None:
        raise RecipeError(f"time_bands: no argument of {component} is seen to be a time-step that changes: {MEND}")
    times = [visit.timestep for visit in run.visits if component in visit.called]
    told, known = (axis["low"], axis["high"]), (min(times), max(times))
    if any(abs(one - other) > CLOSE * max(abs(known[1]), 1e-9) for one, other in zip(told, known, strict=True)):
        raise RecipeError(
            f"time_bands: {component} is told {axis['argument']} from {told[0]:g} to {told[1]:g} where its scheduler "
            f"counts from {known[0]:g} to {known[1]:g}: {MEND}"
        )
    return str(axis["argument"])


def require_named(timestep: Any) -> str:
    """The argument's name as a caller gave it. Raises RecipeError for none, or a function of the call."""
    if not isinstance(timestep, str):
        given = "None" if timestep is None else "a function"
        raise RecipeError(
            f"time_bands: bands are told by an argument of the network, and timestep = {given}: give its name, such as "
            f"timestep='t', or {MEND}"
        )
    return timestep
