"""w(t): what an error of the network's call at t does to the final picture.

An error δ_t is added to the network's answer at one visited time-step of a float trajectory; the trajectory is then
finished by the float network, with the same noise. With x_0 the picture, clipped to [-1, 1], and x_0' what it becomes,

    w(t) = root of the mean over pictures of (‖x_0' - x_0‖ / ‖δ_t‖)²,

the change of the picture per unit of error. Errors of different calls that are not correlated add up by squares: a
network that is wrong by δ_t everywhere changes the picture by the sum of w(t)² ‖δ_t‖² in the mean of squares. So a
distance that is a mean of squares has to be weighted with w(t)², not with w(t).

At most so many visits are measured, both ends among them; between them log w is taken as straight. That costs about
half of measured visits x steps calls a picture. Every measured visit is saved as soon as it is known.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from ptq4dm import files
from ptq4dm.calibration.call_errors import Error, norms
from ptq4dm.calibration.collect import sample_seed
from ptq4dm.errors import ArtifactError, CalibrationError
from ptq4dm.pipelines.denoiser import placement
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.pipelines.sampling import advance, answer, begin, require_known_times, seeded_start
from ptq4dm.pipelines.schedulers import make_scheduler
from ptq4dm.progress import progress
from ptq4dm.recipe import CalibrationRecipe

PICTURES: Final = 8
"""Trajectories that are disturbed."""
LAW_POWER: Final = 2
"""The law `auto` is p(t) in proportion to w(t) to this power: errors add up by squares."""
MOST_VISITS: Final = 25
"""Visits that are measured."""
LEAST: Final = 1e-12
"""A weight below this share of the largest is taken for it, since logarithms are interpolated."""


@dataclass(frozen=True)
class StepWeights:
    """w(t) along a trajectory.

    timesteps: visited, in the order of the calls. weights: w(t) of each. measured: which of them were measured (the
    others are interpolated). standard_errors: of the measured weights, over pictures. errors: the size of what was
    injected there, ‖δ_t‖ over ‖output‖, mean. pictures, calls_made (the network's, one a picture and call), seconds:
    what it cost.
    """

    timesteps: tuple[float, ...]
    weights: tuple[float, ...]
    measured: tuple[int, ...]
    standard_errors: tuple[float, ...]
    errors: tuple[float, ...]
    pictures: int
    calls_made: int
    seconds: float

    def shares(self, power: float) -> Tensor:
        """(visits,) float64 that sum to 1: p(t) in proportion to w(t) to a power."""
        weights = torch.tensor(self.weights, dtype=torch.float64) ** power
        return weights / weights.sum()

    def law_options(self, power: float) -> dict[str, Any]:
        """Of the law `weighted` that draws visited time-steps so; the weights of one visited twice are added up."""
        found: dict[int, float] = {}
        for timestep, share in zip(self.timesteps, self.shares(power).tolist(), strict=True):
            found[round(timestep)] = found.get(round(timestep), 0.0) + share
        return {"timesteps": list(found), "weights": list(found.values())}

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, eq=False)
class Visit:
    """A place on the float trajectory from which it can be walked again."""

    scheduler: Any
    timestep: Tensor
    x: Tensor
    output: Tensor
    states: tuple[Tensor, ...]


def weigh_steps(
    pipeline: Pipeline,
    recipe: CalibrationRecipe,
    error: Error,
    how: Any,
    folder: Path | None,
    shown: bool,
    most: int = MOST_VISITS,
) -> StepWeights:
    """w(t) on the first trajectories of a calibration. how: JSON data, all that the errors depend on beside the model.
    folder: where an interrupted measurement goes on from. most: time-steps that are measured."""
    seeds = [sample_seed(recipe.seed, index) for index in range(PICTURES)]
    scheduler = make_scheduler(recipe.sampler, pipeline.scheduler.config)
    key = files.fingerprint({}, pipeline.fingerprint, how, recipe.sampler, recipe.steps, seeds, most)
    cache = folder / "step_weights" / f"{key}.json" if folder is not None else None
    network, shape = pipeline.denoiser, pipeline.picture_shape
    return measure_step_weights(network, scheduler, recipe.steps, shape, seeds, error, most, cache, shown)


def measure_step_weights(
    network: nn.Module,
    scheduler: Any,
    steps: int,
    picture_shape: Sequence[int],
    seeds: Sequence[int],
    error: Error,
    most: int = MOST_VISITS,
    cache: Path | None = None,
    shown: bool = False,
) -> StepWeights:
    """Measure w(t) on the trajectories of `seeds`, walked in one batch.

    most: visits that are measured. cache: a file for what is known so far; its name should tell all that it depends
    on, since that is not checked.
    Raises CalibrationError where no error changes any picture.
    """
    started = time.perf_counter()
    visits, x_0 = walk(network, scheduler, steps, picture_shape, seeds)
    chosen = spread(len(visits), most)
    found = read_found(cache, len(seeds))
    left = sum(len(visits) - index for index in chosen if index not in found)
    with progress("what errors do", left * len(seeds), shown) as done:
        for index in chosen:
            if index not in found:
                found[index] = effect(network, visits, index, x_0, error)
                write_found(cache, found)
                done((len(visits) - index) * len(seeds))
    finished = sum(len(visits) - 1 - index for index in chosen)
    seconds = time.perf_counter() - started
    timesteps = [float(visit.timestep) for visit in visits]
    return summary(timesteps, {index: found[index] for index in chosen}, len(visits) + finished, seconds)


def walk(
    network: nn.Module, scheduler: Any, steps: int, picture_shape: Sequence[int], seeds: Sequence[int]
) -> tuple[list[Visit], Tensor]:
    """The float trajectories: every visit, and the final pictures."""
    x_T, generators = seeded_start(picture_shape, seeds)
    device, dtype = placement(network)
    scheduler, x = begin(scheduler, steps, x_T.to(device, dtype))
    require_known_times(network, scheduler.timesteps)
    visits = []
    for timestep in scheduler.timesteps:
        _, output = answer(network, scheduler, timestep, x)
        states = tuple(generator.get_state() for generator in generators)
        visits.append(Visit(copy.deepcopy(scheduler), timestep, x, output, states))
        x = advance(scheduler, output, timestep, x, generators)
    return visits, x


def effect(
    network: nn.Module, visits: Sequence[Visit], index: int, x_0: Tensor, error: Error
) -> list[tuple[float, float]]:
    """For each picture ‖x_0' - x_0‖ / ‖δ_t‖ of an error at visit `index`, and ‖δ_t‖ / ‖output‖."""
    visit = visits[index]
    scheduler = copy.deepcopy(visit.scheduler)
    generators = [torch.Generator().set_state(state) for state in visit.states]
    injected = error(scheduler.scale_model_input(visit.x, visit.timestep), visit.timestep, visit.output)
    x = advance(scheduler, visit.output + injected, visit.timestep, visit.x, generators)
    for later in visits[index + 1 :]:
        _, output = answer(network, scheduler, later.timestep, x)
        x = advance(scheduler, output, later.timestep, x, generators)
    size = norms(injected).clamp(min=torch.finfo(torch.float32).tiny)
    change = norms(x.clamp(-1, 1) - x_0.clamp(-1, 1)) / size
    return list(zip(change.tolist(), (size / norms(visit.output)).tolist(), strict=True))


def spread(visits: int, most: int) -> list[int]:
    """At most `most` of the visits, evenly, the first and the last among them."""
    return sorted({round(float(place)) for place in np.linspace(0, visits - 1, min(most, visits))})


def summary(
    timesteps: Sequence[float],
    found: Mapping[int, Sequence[tuple[float, float]]],
    calls: int,
    seconds: float,
) -> StepWeights:
    """Put together what was measured at some visits; between them log w is straight in the index of the visit."""
    known = sorted(found)
    squares = np.array([[change**2 for change, _ in found[index]] for index in known])
    weights = np.sqrt(squares.mean(1))
    if not np.isfinite(weights).all() or not weights.max() > 0:
        raise CalibrationError(
            "an error of a call changes no final picture, or makes it infinite, so that time-steps cannot be weighted "
            "by it: use another law of time-steps, such as 'ndtc'"
        )
    pictures = squares.shape[1]
    spreads = squares.std(1, ddof=1) / np.sqrt(pictures) if pictures > 1 else np.zeros(len(known))
    least = np.maximum(weights, LEAST * weights.max())
    every = np.exp(np.interp(np.arange(len(timesteps)), known, np.log(least)))
    return StepWeights(
        tuple(timesteps),
        tuple(every.tolist()),
        tuple(known),
        tuple((spreads / (2 * least)).tolist()),
        tuple(float(np.mean([size for _, size in found[index]])) for index in known),
        pictures,
        calls * pictures,
        round(seconds, 3),
    )


def read_found(path: Path | None, pictures: int) -> dict[int, list[tuple[float, float]]]:
    """What was measured before: by visit; nothing where there is no file, or a damaged one."""
    try:
        saved = files.read_json(path) if path is not None else {}
        found = {int(index): [(float(change), float(size)) for change, size in item] for index, item in saved.items()}
    except (ArtifactError, AttributeError, TypeError, ValueError):  # not there yet, or damaged
        return {}
    return {index: item for index, item in found.items() if len(item) == pictures}


def write_found(path: Path | None, found: Mapping[int, Sequence[tuple[float, float]]]) -> None:
    """Save what is known so far, whole or not at all."""
    if path is not None:
        files.write_json(path, {str(index): [list(pair) for pair in item] for index, item in found.items()})
