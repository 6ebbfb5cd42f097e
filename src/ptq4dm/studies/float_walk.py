"""The float trajectories of the test pictures, walked once a sampler; all rows are compared on the same calls."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ptq4dm.errors import ArtifactError
from ptq4dm.evaluation.fidelity import CallErrors, call_error, call_errors, float_steps
from ptq4dm.files import fingerprint, read_tensors, write_tensors
from ptq4dm.pipelines.denoiser import placement, predict
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.pipelines.sampling import visited_timesteps
from ptq4dm.pipelines.schedulers import make_scheduler
from ptq4dm.progress import progress


@dataclass(frozen=True)
class Trajectories:
    """Which trajectories of the test pictures. sampler, steps: how pictures are drawn. seeds: one a picture. kept: how
    many calls are kept."""

    sampler: str
    steps: int
    seeds: tuple[int, ...]
    kept: int
    batch_size: int

    def short(self, pictures: int) -> "Trajectories":
        """The same for the first pictures only."""
        return Trajectories(self.sampler, self.steps, self.seeds[:pictures], self.kept, self.batch_size)

    @property
    def name(self) -> str:
        """Such as `ddim-50`."""
        return f"{self.sampler}-{self.steps}"


@dataclass(frozen=True, eq=False)
class FloatWalk:
    """timesteps: (calls,). x_t, outputs: (calls, pictures, c, h, w) of the kept calls. pictures: (n, c, h, w)."""

    timesteps: Tensor
    x_t: Tensor
    outputs: Tensor
    pictures: Tensor


def float_walk(pipeline: Pipeline, model: str, asked: Trajectories, folder: Path, shown: bool) -> FloatWalk:
    """Walk the float trajectories, or read them where they were walked before. model: the pipeline's fingerprint."""
    key = fingerprint({}, model, asked.sampler, asked.steps, list(asked.seeds), asked.kept)
    path = folder / f"{asked.name}-{key}.safetensors"
    try:
        tensors, _ = read_tensors(path)
        return FloatWalk(**tensors)
    except (ArtifactError, TypeError):  # not walked yet, or damaged
        walked = walk(pipeline, asked, shown)
    write_tensors(path, dict(vars(walked)))
    return walked


def walk(pipeline: Pipeline, asked: Trajectories, shown: bool) -> FloatWalk:
    """Walk the float trajectories."""
    scheduler = make_scheduler(asked.sampler, pipeline.scheduler.config)
    visited = visited_timesteps(scheduler, asked.steps)
    kept = sorted({round(index * (len(visited) - 1) / max(1, asked.kept - 1)) for index in range(asked.kept)})
    inputs, outputs, pictures = [], [], []
    with progress(f"float {asked.name}", len(asked.seeds) * len(visited), shown) as advance:
        for first in range(0, len(asked.seeds), asked.batch_size):
            batch = asked.seeds[first : first + asked.batch_size]
            steps = []
            for step in float_steps(pipeline, scheduler, asked.steps, batch, pictures):
                if step.index in kept:
                    steps.append((step.x_t.float().cpu(), step.output.float().cpu()))
                advance(len(batch))
            inputs.append(torch.stack([x_t for x_t, _ in steps]))
            outputs.append(torch.stack([output for _, output in steps]))
    return FloatWalk(visited[kept].clone(), torch.cat(inputs, 1), torch.cat(outputs, 1), torch.cat(pictures))


def errors_along(walked: FloatWalk, network: nn.Module, batch_size: int, shown: bool) -> CallErrors:
    """How far a network is from the float one on the calls of the float trajectories."""
    device, dtype = placement(network)
    batches = []
    with progress("comparing calls", walked.x_t.shape[0] * walked.x_t.shape[1], shown) as advance:
        for first in range(0, walked.x_t.shape[1], batch_size):
            part = slice(first, first + batch_size)
            steps = []
            for timestep, x_t, wanted in zip(walked.timesteps, walked.x_t, walked.outputs, strict=True):
                got = predict(network, x_t[part].to(device, dtype), timestep.to(device))
                steps.append(call_error(wanted[part], got))
                advance(len(got))
            batches.append(steps)
    return call_errors(walked.timesteps, batches)
