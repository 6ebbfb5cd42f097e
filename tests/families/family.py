"""What a tiny family is: a real diffusers pipeline with random weights, and how it is asked for pictures."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

Build = Callable[[], DiffusionPipeline]


def num_inference_steps(steps: int) -> dict[str, Any]:
    """How nearly every pipeline is asked for `steps` steps."""
    return {"num_inference_steps": steps}


def nothing(pipeline: DiffusionPipeline) -> None:
    """Most pipelines are complete as soon as they are loaded."""


@dataclass(frozen=True)
class TinyFamily:
    """One family of pipelines.

    build: makes the pipeline, the same at every call. inputs: the keyword arguments of the pipeline for so many
    pictures, without the generator and the number of steps. denoisers: the components whose answers a scheduler steps
    with. beside: those that are called in every step too, but whose answers are conditions of a denoiser (ControlNet).
    steps: the keyword arguments that ask for so many steps. reattach: puts on again what diffusers does not save with
    the pipeline.
    """

    name: str
    build: Build
    inputs: Callable[[int], dict[str, Any]]
    denoisers: tuple[str, ...]
    beside: tuple[str, ...] = ()
    steps: Callable[[int], dict[str, Any]] = num_inference_steps
    reattach: Callable[[DiffusionPipeline], None] = nothing


def reproducible(build: Build) -> Build:
    """Make a builder draw the same weights at every call, without touching torch's global generator."""

    @functools.wraps(build)
    def built() -> DiffusionPipeline:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipeline = build()
            for module in modules(pipeline).values():
                unsettle(module)
                module.eval().requires_grad_(False)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return built


def modules(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    """The networks of a pipeline, by the name of the component."""
    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}


@torch.no_grad()
def unsettle(network: nn.Module) -> None:
    """Add noise to every parameter that starts as a constant (norms, biases, zeroed outputs), as training would."""
    for parameter in network.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            parameter.add_(0.1 * torch.randn_like(parameter))


def reloaded(family: TinyFamily, pipeline: DiffusionPipeline, folder: Path) -> DiffusionPipeline:
    """Save `pipeline` in `folder` and load it again, the diffusers way."""
    pipeline.save_pretrained(folder)
    loaded = type(pipeline).from_pretrained(folder)
    family.reattach(loaded)
    loaded.set_progress_bar_config(disable=True)
    for module in modules(loaded).values():
        align(module)
    return loaded


def align(network: nn.Module) -> None:
    """Copy every tensor of `network` to memory of its own.

    What diffusers loads lies where the file has it, at addresses that are no multiple of 64: there, products of a
    matrix and a vector round otherwise in the last bit.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone()


def result(output: Any) -> torch.Tensor:
    """The pictures, frames or waveforms of a pipeline's answer, one entry a picture."""
    return torch.as_tensor(output.to_tuple()[0]).float()


def run(family: TinyFamily, pipeline: DiffusionPipeline, batch: int = 1, steps: int = 2, seed: int = 0) -> torch.Tensor:
    """Draw `batch` pictures with the pipeline of `family` in `steps` steps."""
    generator = torch.Generator().manual_seed(seed)
    return result(pipeline(**family.inputs(batch), **family.steps(steps), generator=generator))
