"""Where calibration inputs come from. A source fills one order: so many time-steps in, so many (x_t, t) out.

Sample i is made of orders' seeds[i] and drawn[i] alone, so what else is in the batch changes it by float rounding
and no more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ptq4dm.errors import CalibrationError
from ptq4dm.pipelines.denoiser import placement, predict_in_parts
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.pipelines.sampling import advance, begin, keep_rows, require_known_times, seeded_start, visited_timesteps
from ptq4dm.pipelines.schedulers import make_scheduler
from ptq4dm.progress import Advance
from ptq4dm.recipe import CalibrationRecipe


@dataclass(frozen=True, eq=False)
class Order:
    """What a source is asked for.

    drawn: (batch,) int64, the time-steps that the law drew. seeds: one a sample. pictures: (batch, channels, height,
    width) in [-1, 1], one x_0 a sample, or None.
    """

    pipeline: Pipeline
    recipe: CalibrationRecipe
    drawn: Tensor
    seeds: tuple[int, ...]
    pictures: Tensor | None


@dataclass(frozen=True, eq=False)
class Harvest:
    """What a source gives: x_t (batch, channels, height, width) float32, timesteps (batch,), both on the CPU.

    timesteps: the label that the network gets with each x_t. calls_made: evaluations of the network, one a sample
    and call. calls_saved: those that stopping early saved.
    """

    x_t: Tensor
    timesteps: Tensor
    calls_made: int = 0
    calls_saved: int = 0


Source = Callable[[Order, Advance], Harvest]
"""Fills an order; reports every unit of its work, of which `work` says the total."""


def denoising(order: Order, done: Advance) -> Harvest:
    """x_t of the float model's own reverse process, kept when a trajectory reaches the visited time-step nearest its t.

    PTQ4DM (arXiv 2211.15736), section 3.3. x_t is the network's input at t, so the network is not called there: a
    sample leaves the batch as soon as its t is reached, and denoising stops when the last has left.
    """
    pipeline, recipe = order.pipeline, order.recipe
    device, dtype = placement(pipeline.denoiser)
    x_T, generators = seeded_start(pipeline.picture_shape, order.seeds)
    scheduler = make_scheduler(recipe.sampler, pipeline.scheduler.config)
    scheduler, x = begin(scheduler, recipe.steps, x_T.to(device, dtype))
    require_known_times(pipeline.denoiser, scheduler.timesteps)
    targets = nearest_visits(scheduler.timesteps, order.drawn)
    kept, calls_made = torch.empty_like(x_T), 0
    running = torch.arange(len(x_T))
    for index, timestep in enumerate(scheduler.timesteps):
        x_t = scheduler.scale_model_input(x, timestep)
        due = targets[running] == index
        kept[running[due]] = x_t[due.to(device)].float().cpu()
        rows = (~due).nonzero().squeeze(1)
        if len(rows) == 0:
            break
        if len(rows) < len(running):
            keep_rows(scheduler, x.shape, rows.to(device))
            running, x, x_t = running[rows], x[rows.to(device)], x_t[rows.to(device)]
        output = predict_in_parts(pipeline.denoiser, x_t, timestep)
        require_finite(output, f"the network's output at time-step {timestep.item():g}")
        x = advance(scheduler, output, timestep, x, [generators[row] for row in running.tolist()])
        calls_made += len(running)
        done(len(running))
    visited = whole_if_possible(scheduler.timesteps.cpu())[targets]
    return Harvest(kept, visited, calls_made, len(x_T) * len(scheduler.timesteps) - calls_made)


def pictures(order: Order, done: Advance) -> Harvest:
    """Raw x_0 with the drawn t as its label: the baseline that fails (the network never sees clean x at t > 0)."""
    done(len(order.drawn))
    return Harvest(required_pictures(order).clone(), order.drawn)


def diffused(order: Order, done: Advance) -> Harvest:
    """Training-style x_t = √ᾱ_t·x_0 + √(1 - ᾱ_t)·ε at the drawn t, ε ~ N(0, I) of the sample's own seed."""
    x_0 = required_pictures(order)
    noise, _ = seeded_start(x_0.shape[1:], order.seeds)
    done(len(order.drawn))
    process = make_scheduler("ddpm", order.pipeline.scheduler.config)
    return Harvest(process.add_noise(x_0, noise, order.drawn), order.drawn)  # type: ignore[attr-defined]  # of SchedulerMixin


def noise(order: Order, done: Advance) -> Harvest:
    """Pure noise N(0, I) with the drawn t as its label."""
    done(len(order.drawn))
    return Harvest(seeded_start(order.pipeline.picture_shape, order.seeds)[0], order.drawn)


SOURCES: Final[dict[str, Source]] = {
    "denoising": denoising,
    "pictures": pictures,
    "diffused": diffused,
    "noise": noise,
}
NEEDS_PICTURES: Final = ("pictures", "diffused")


def work(pipeline: Pipeline, recipe: CalibrationRecipe, drawn: Tensor) -> int:
    """How many units of work an order with these time-steps is: calls of the network, or samples."""
    if recipe.source != "denoising":
        return len(drawn)
    scheduler = make_scheduler(recipe.sampler, pipeline.scheduler.config)
    return int(nearest_visits(visited_timesteps(scheduler, recipe.steps), drawn).sum())


def nearest_visits(visited: Tensor, drawn: Tensor) -> Tensor:
    """For each drawn t, the index of the first visit of the nearest visited time-step, (batch,) int64.

    visited: (calls,), in the order of the trajectory. Of two as near, the noisier one.
    """
    levels = visited.double().cpu()
    nearness = (levels[None, :] - drawn.double()[:, None]).abs()
    best = nearness.amin(1, keepdim=True)
    noisiest = torch.where(nearness == best, levels, -torch.inf).amax(1, keepdim=True)
    return (levels[None, :] == noisiest).double().argmax(1)


def whole_if_possible(timesteps: Tensor) -> Tensor:
    """int64 where all are whole numbers (every scheduler but Euler's with linspace spacing), else float32."""
    return timesteps.long() if bool((timesteps == timesteps.round()).all()) else timesteps.float()


def required_pictures(order: Order) -> Tensor:
    """The order's pictures. Raises CalibrationError if there are none."""
    if order.pictures is None:
        raise CalibrationError(f"source {order.recipe.source!r} needs pictures: give them, or use source 'denoising'")
    return order.pictures


def require_finite(tensor: Tensor, what: str) -> None:
    """Raise CalibrationError if `tensor` holds NaN or infinity."""
    if not torch.isfinite(tensor).all():
        raise CalibrationError(f"{what} holds NaN or infinity: check the model, or run it in float32")
