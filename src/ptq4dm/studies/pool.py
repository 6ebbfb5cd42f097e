"""The calibration trajectories of a study: the float model's own, walked once, from which every law takes its x_t."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.calibration.collect import LAW_STREAM, PICTURE_STREAM, sample_seed, stream
from ptq4dm.calibration.sources import nearest_visits
from ptq4dm.calibration.timesteps import TimestepLaw, draw_timesteps, resolve_law
from ptq4dm.errors import ArtifactError
from ptq4dm.files import fingerprint, read_tensors, write_tensors
from ptq4dm.pipelines.denoiser import Call, placement
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.pipelines.sampling import seeded_start, trajectory, visited_timesteps
from ptq4dm.pipelines.schedulers import make_scheduler
from ptq4dm.progress import progress
from ptq4dm.quantization.smoothing import watching_largest


@dataclass(frozen=True, eq=False)
class Pool:
    """Inputs of the network on some calibration trajectories: at each visit those of every `thinning`-th trajectory.

    timesteps: (visits,) in the order of the trajectory. x_t: (visits, trajectories / thinning, c, h, w); trajectories
    take turns from visit to visit, so that all are seen. largest: by layer, the
    largest magnitude of each of its input channels on the way. facts: JSON data, what it depends on.
    """

    timesteps: Tensor
    x_t: Tensor
    largest: Mapping[str, Tensor]
    facts: dict[str, Any]

    def calls(self, batch_size: int) -> Iterator[tuple[Call, Tensor]]:
        """A call for every visit and each batch of trajectories, with its time-steps."""
        for timestep, x_t in zip(self.timesteps, self.x_t, strict=True):
            for part in x_t.split(batch_size):
                labels = timestep.expand(len(part)).clone()
                yield Call((part, labels)), labels

    def only(self, visits: Tensor) -> "Pool":
        """Some visits of the trajectories, (visits,) bool."""
        return replace(self, timesteps=self.timesteps[visits], x_t=self.x_t[visits])

    def under(
        self,
        law: str | TimestepLaw,
        options: Mapping[str, Any],
        samples: int,
        seed: int,
        num_train_timesteps: int,
        mirrored: bool = False,
    ) -> CalibrationSet:
        """Samples (x_t, t) of these trajectories at time-steps that a law draws, trajectories taken in turn.

        mirrored: x_t is counted from the wrong end, as in the paper's released code: a known fault.
        """
        rng = np.random.default_rng(stream(seed, LAW_STREAM))
        drawn = torch.from_numpy(draw_timesteps(resolve_law(law, options), samples, num_train_timesteps, rng))
        visits = nearest_visits(self.timesteps, drawn)
        order = np.random.default_rng(stream(seed, PICTURE_STREAM)).permutation(self.x_t.shape[1])
        of_trajectory = torch.from_numpy(np.resize(order, samples))
        taken = len(self.timesteps) - 1 - visits if mirrored else visits
        facts = {**self.facts, "law": str(law), "mirrored": mirrored, "seed": seed, "samples": samples}
        return CalibrationSet(self.x_t[taken, of_trajectory], self.timesteps[visits], drawn, facts)


def collect_pool(
    pipeline: Pipeline,
    model: str,
    sampler: str,
    steps: int,
    trajectories: int,
    thinning: int,
    seed: int,
    batch_size: int,
    folder: Path,
    shown: bool,
) -> Pool:
    """Walk the trajectories, batch by batch; those found in `folder` are read. model: the pipeline's fingerprint."""
    facts = {
        "model_fingerprint": model,
        "model": pipeline.name,
        "source": "denoising",
        "sampler": sampler,
        "steps": steps,
        "trajectories": trajectories,
        "thinning": thinning,
        "trajectory_seed": seed,
    }
    key = fingerprint({}, {**facts, "trajectories": None}, batch_size)
    scheduler = make_scheduler(sampler, pipeline.scheduler.config)
    visited = visited_timesteps(scheduler, steps)
    parts: list[dict[str, Tensor]] = []
    with progress(f"trajectories {sampler}-{steps}", trajectories * len(visited), shown) as advance:
        for first in range(0, trajectories, batch_size):
            seeds = [sample_seed(seed, index) for index in range(first, min(first + batch_size, trajectories))]
            path = folder / f"{sampler}-{steps}-{key}" / f"{first:05d}-{len(seeds)}.safetensors"
            try:
                tensors, _ = read_tensors(path)
            except ArtifactError:  # not walked yet, or damaged
                tensors = walked(pipeline, scheduler, steps, seeds, thinning)
                write_tensors(path, tensors)
            parts.append(tensors)
            advance(len(seeds) * len(visited))
    layers = [name for name in parts[0] if name != "x_t"]
    largest = {name: torch.stack([part[name] for part in parts]).amax(0) for name in layers}
    return Pool(visited, torch.cat([part["x_t"] for part in parts], 1), largest, facts)


def walked(pipeline: Pipeline, scheduler: Any, steps: int, seeds: list[int], thinning: int) -> dict[str, Tensor]:
    """`x_t` (visits, batch / thinning, c, h, w) of one batch of trajectories, and by layer the largest of each input
    channel."""
    device, dtype = placement(pipeline.denoiser)
    x_T, generators = seeded_start(pipeline.picture_shape, seeds)
    with watching_largest({"": pipeline.denoiser}) as largest:
        walk = trajectory(pipeline.denoiser, scheduler, steps, x_T.to(device, dtype), generators)
        x_t = torch.stack([step.x_t[step.index % thinning :: thinning].float().cpu() for step in walk])
    return {"x_t": x_t, **largest[""]}
