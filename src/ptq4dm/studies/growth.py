"""How the error grows along a trajectory that the quantized network walks by itself.

Both networks start from the same noise x_T and draw the same noise of the steps. At each step::

    of x_t:    |x_t of the quantized walk - x_t of the float walk| / |x_t of the float walk|
    of a call: |Q(x_t, t) - ε(x_t, t)| / |ε(x_t, t)|, both at the float walk's x_t

so the first adds up what all steps before made of the second. The end is the picture, as it is shown: clipped to
[-1, 1].
"""

from typing import Any

import torch
from torch import Tensor, nn

from ptq4dm.evaluation.fidelity import relative_l2
from ptq4dm.pipelines.denoiser import placement
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.pipelines.sampling import seeded_start, to_picture, trajectory
from ptq4dm.pipelines.schedulers import make_scheduler
from ptq4dm.progress import progress
from ptq4dm.studies.float_walk import FloatWalk, Trajectories, errors_along
from ptq4dm.studies.integer_products import integer_products


def growth_of(
    pipeline: Pipeline, network: nn.Module, walked: FloatWalk, asked: Trajectories, shown: bool
) -> dict[str, Any]:
    """The facts: `t`, and mean and standard error over pictures of both errors at each step and of the picture.

    walked: the float walk of `asked`, with every call kept.
    """
    with integer_products(network.modules()):
        calls = errors_along(walked, network, asked.batch_size, shown).relative_l2
        along, pictures = free_running(pipeline, network, walked, asked, shown)
    return {
        "t": walked.timesteps.tolist(),
        "x_t": mean_and_error(along),
        "call": mean_and_error(calls),
        "picture": {key: values[0] for key, values in mean_and_error(pictures.unsqueeze(1)).items()},
        "n": len(pictures),
    }


def free_running(
    pipeline: Pipeline, network: nn.Module, walked: FloatWalk, asked: Trajectories, shown: bool
) -> tuple[Tensor, Tensor]:
    """The relative L2 of x_t of the network's own walk, (pictures, calls), and of its pictures, (pictures,)."""
    scheduler = make_scheduler(asked.sampler, pipeline.scheduler.config)
    device, dtype = placement(network)
    along, ends = [], []
    with progress("free running", len(asked.seeds) * len(walked.timesteps), shown) as advance:
        for first in range(0, len(asked.seeds), asked.batch_size):
            seeds = asked.seeds[first : first + asked.batch_size]
            part = slice(first, first + len(seeds))
            x_T, generators = seeded_start(pipeline.picture_shape, seeds)
            walk = trajectory(network, scheduler, asked.steps, x_T.to(device, dtype), generators)
            errors = []
            while True:
                try:
                    step = next(walk)
                except StopIteration as end:
                    ends.append(far(2 * walked.pictures[part] - 1, 2 * to_picture(end.value) - 1))
                    break
                errors.append(far(walked.x_t[step.index, part], step.x_t))
                advance(len(seeds))
            along.append(torch.stack(errors, 1))
    return torch.cat(along), torch.cat(ends)


def far(wanted: Tensor, got: Tensor) -> Tensor:
    """The relative L2 of each of a batch (n, ...) -> (n,) float64 on the CPU."""
    return relative_l2(wanted.cpu().double().flatten(1), got.detach().cpu().double().flatten(1))


def mean_and_error(values: Tensor) -> dict[str, list[float]]:
    """Mean and standard error over pictures, of values (pictures, calls)."""
    error = values.std(0) / len(values) ** 0.5 if len(values) > 1 else torch.zeros_like(values[0])
    return {"mean": values.mean(0).tolist(), "standard_error": error.tolist()}
