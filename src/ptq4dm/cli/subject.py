"""What `sample` draws with: a float model, or a quantized one on a backend."""

from dataclasses import dataclass

import torch
from torch import nn

from ptq4dm.backends.places import device_for, device_of_network
from ptq4dm.errors import ModelError
from ptq4dm.pipelines.pipeline import Pipeline, open_pipeline
from ptq4dm.pipelines.schedulers import require_steps
from ptq4dm.quantization.artifact import load
from ptq4dm.quantization.quantized_model import compiled, pipeline_on


@dataclass(frozen=True)
class Subject:
    """A network ready to draw with: its pipeline, the backend's name and notes on the choice."""

    network: nn.Module
    pipeline: Pipeline
    backend: str
    notes: tuple[str, ...] = ()


def open_subject(
    model: str,
    is_float: bool,
    backend: str,
    sampler: tuple[str, int],
    device: str | None = None,
    dtype: torch.dtype | None = None,
    batch: int | None = None,
    shown: bool = False,
) -> Subject:
    """Open a float model or an artifact, to draw with a scheduler in so many steps.

    device, dtype: where the network goes before its backend prepares it, and in which float type; None: where the
    backend computes, and as it was saved. batch: pictures drawn at once. shown: a bar while engines compile. Raises
    PTQ4DMError.
    """
    if is_float:
        if backend != "auto":
            raise ModelError(
                f"backend {backend!r} beside --float: the float model runs in PyTorch, leave --backend out"
            )
        pipeline = pipeline_on(open_pipeline(model), device or "cpu", dtype)
        return Subject(pipeline.denoiser, pipeline, "float")
    quantized = load(model)
    if quantized.pipeline is None:
        raise ModelError(f"{model} holds a bare module, which has no pipeline to draw with: use it in Python")
    name, steps = sampler
    require_steps(name, quantized.pipeline.scheduler.config, steps)
    arithmetic = quantized.recipe.arithmetic
    wanted = device_for(backend, device, arithmetic)
    there = device_of_network(backend, wanted, arithmetic)
    module = compiled(quantized, backend, shown, there, dtype, batch)
    notes = [f"{backend} computes on the CPU, so device {device!r} was not used"] if there != wanted else []
    return Subject(module, quantized.pipeline, module.ptq4dm_backend, (*module.ptq4dm_notes, *notes))
