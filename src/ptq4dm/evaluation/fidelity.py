"""How faithful a quantized network is to the float one, at equal seeds: call by call, and picture by picture.

Call level: both networks get the x_t of the *float* trajectory, so that errors do not add up along the way. With
y the float output and Δ the difference, per picture and step::

    relative L2 = |Δ| / |y|      PSNR = 20 log10( (max y - min y) / rms Δ )      gain = Δ·y / |y|²

The gain is the part of the error that all pictures can share (the correlated noise of PTQD, He et al., NeurIPS 2023,
arXiv 2305.10657): answers are (1 + gain) times the float ones, and what is left is orthogonal to them.

Picture level: each network walks its own trajectory from the same noise; pictures are clipped to [0, 1] and
PSNR = -20 log10(rms Δ), one a picture; means are means of dB. Identical pictures have an infinite PSNR: they are
counted and left out of the mean.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ptq4dm.errors import EvaluationError
from ptq4dm.pipelines.denoiser import placement, predict
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.pipelines.sampling import Step, calls_per_picture, seeded_start, to_picture, trajectory
from ptq4dm.pipelines.schedulers import make_scheduler
from ptq4dm.progress import progress

KEPT_CALLS = 8


@dataclass(frozen=True, eq=False)
class CallErrors:
    """Errors of single calls. timesteps: (steps,) as visited. relative_l2, psnr, gain: float64 (pictures, steps); psnr
    is infinite where the outputs are identical."""

    timesteps: Tensor
    relative_l2: Tensor
    psnr: Tensor
    gain: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Means over pictures and steps, and the curve over t, as plain JSON data (null: identical everywhere)."""
        columns = self.psnr.unbind(1)
        return {
            "n": len(self.relative_l2),
            "relative_l2_mean": float(self.relative_l2.mean()),
            "psnr_mean": mean_db(self.psnr),
            "identical": int(torch.isinf(self.psnr).sum()),
            "curve": {
                "t": self.timesteps.tolist(),
                "relative_l2": self.relative_l2.mean(0).tolist(),
                "psnr": [mean_db(column) for column in columns],
                "gain": self.gain.mean(0).tolist(),
            },
        }


@dataclass(frozen=True, eq=False)
class FloatWalk:
    """What walking the float trajectories gave. pictures: (n, c, h, w) in [0, 1]; errors: by the networks' names;
    calls: some inputs (x_t, t) of the first batch, evenly spaced over the trajectory."""

    pictures: Tensor
    errors: dict[str, CallErrors]
    calls: list[tuple[Tensor, Tensor]]


def compare_calls(
    pipeline: Pipeline,
    networks: Mapping[str, nn.Module],
    sampler: str,
    steps: int,
    seeds: Sequence[int],
    batch_size: int,
    shown: bool = False,
) -> FloatWalk:
    """Walk the float trajectories of `seeds` and call every network on the way, where it is and in its type. Raises
    EvaluationError, RecipeError."""
    if not seeds or batch_size < 1:
        raise EvaluationError(f"{len(seeds)} pictures in batches of {batch_size}: both should be at least 1")
    scheduler = make_scheduler(sampler, pipeline.scheduler.config)
    count = calls_per_picture(scheduler, steps)
    kept_at = {round(index * (count - 1) / max(1, KEPT_CALLS - 1)) for index in range(KEPT_CALLS)}
    calls: list[tuple[Tensor, Tensor]] = []
    pictures: list[Tensor] = []
    timesteps: dict[int, float] = {}
    errors: dict[str, list[list[tuple[Tensor, ...]]]] = {name: [] for name in networks}
    places = {name: placement(one) for name, one in networks.items() if isinstance(one, nn.Module)}
    with progress("comparing calls", len(seeds) * count, shown) as advance:
        for first in range(0, len(seeds), batch_size):
            batch = seeds[first : first + batch_size]
            for name in networks:
                errors[name].append([])
            for step in float_steps(pipeline, scheduler, steps, batch, pictures):
                timesteps[step.index] = step.timestep.item()
                if first == 0 and step.index in kept_at:
                    calls.append((step.x_t, step.timestep))
                for name, network in networks.items():
                    x_t = step.x_t.to(*places[name]) if name in places else step.x_t  # of another runtime: a function
                    answer = predict(network, x_t, step.timestep)[:, : step.output.shape[1]]
                    errors[name][-1].append(call_error(step.output, answer))
                advance(len(batch))
    visited = torch.tensor([timesteps[index] for index in sorted(timesteps)])
    return FloatWalk(
        torch.cat(pictures), {name: call_errors(visited, batches) for name, batches in errors.items()}, calls
    )


def float_steps(
    pipeline: Pipeline, scheduler: Any, steps: int, seeds: Sequence[int], pictures: list[Tensor]
) -> Iterator[Step]:
    """The float network's calls for one batch of seeds; its pictures are appended to `pictures` at the end."""
    device, dtype = placement(pipeline.denoiser)
    x_T, generators = seeded_start(pipeline.picture_shape, seeds)
    walk: Generator[Step, None, Tensor] = trajectory(
        pipeline.denoiser, scheduler, steps, x_T.to(device, dtype), generators
    )
    pictures.append(to_picture((yield from walk)))


def call_errors(timesteps: Tensor, batches: Sequence[Sequence[tuple[Tensor, ...]]]) -> CallErrors:
    """Errors of batches of steps of (batch,) each, as (pictures, steps)."""

    def measured(kind: int) -> Tensor:
        return torch.cat([torch.stack([step[kind] for step in batch], dim=1) for batch in batches])

    return CallErrors(timesteps, *map(measured, range(3)))


def call_error(wanted: Tensor, got: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Relative L2, PSNR and gain of each sample of a batch (n, ...) -> three of (n,), float64 on the CPU."""
    if wanted.shape != got.shape:
        raise EvaluationError(f"the networks return different shapes: {tuple(wanted.shape)} and {tuple(got.shape)}")
    wanted, got = wanted.detach().cpu().double().flatten(1), got.detach().cpu().double().flatten(1)
    return relative_l2(wanted, got), psnr(wanted, got, wanted.amax(1) - wanted.amin(1)), gain(wanted, got)


def relative_l2(wanted: Tensor, got: Tensor) -> Tensor:
    """|got - wanted| / |wanted| of each row (n, values) -> (n,). 0 / 0 is 0: nothing was to be had, nothing came."""
    difference, size = (got - wanted).norm(dim=1), wanted.norm(dim=1)
    return torch.where(difference == 0, torch.zeros_like(size), difference / size)


def gain(wanted: Tensor, got: Tensor) -> Tensor:
    """(got - wanted)·wanted / |wanted|² of each row (n, values) -> (n,): how much larger the answer is, 0 for an empty
    one."""
    power = wanted.square().sum(1)
    return torch.where(power == 0, torch.zeros_like(power), ((got - wanted) * wanted).sum(1) / power)


def psnr(wanted: Tensor, got: Tensor, peak: Tensor | float = 1.0) -> Tensor:
    """20 log10(peak / rms difference) of each row (n, values) -> (n,); infinite where identical."""
    rms = (got - wanted).square().mean(1).sqrt()
    peak = torch.as_tensor(peak, dtype=rms.dtype).expand_as(rms)
    return torch.where(rms == 0, torch.inf, 20 * torch.log10(peak / rms))


def picture_psnr(wanted: Tensor, got: Tensor) -> Tensor:
    """PSNR of each picture (n, c, h, w) after clipping to [0, 1], peak 1 -> (n,) float64; infinite where identical."""
    if wanted.shape != got.shape:
        raise EvaluationError(f"pictures of shapes {tuple(wanted.shape)} and {tuple(got.shape)} cannot be compared")
    return psnr(wanted.double().clamp(0, 1).flatten(1), got.double().clamp(0, 1).flatten(1))


def mean_db(decibels: Tensor) -> float | None:
    """Mean of the finite values; None if there are none, because everything is identical."""
    finite = decibels[torch.isfinite(decibels)]
    return float(finite.mean()) if len(finite) else None
