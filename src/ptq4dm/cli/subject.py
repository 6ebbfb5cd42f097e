"""What `sample` draws with: a float model, or a quantized one on a backend."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ptq4dm.cli.options import use_device
from ptq4dm.pipelines.pipeline import Pipeline, open_pipeline
from ptq4dm.quantization.artifact import load


@dataclass(frozen=True)
class Subject:
    """A network ready to draw with: its pipeline, the backend's name and notes on the choice."""

    network: nn.Module
    pipeline: Pipeline
    backend: str
    notes: tuple[str, ...] = ()


def open_subject(model: str, is_float: bool, backend: str, device: str) -> Subject:
    """Open a float model or an artifact. Raises PTQ4DMError."""
    if is_float:
        pipeline = open_pipeline(model)
        use_device(pipeline, device)
        return Subject(pipeline.denoiser, pipeline, "float")
    quantized = load(Path(model) if Path(model).exists() else model)
    if quantized.pipeline is None:
        from ptq4dm.errors import ModelError

        raise ModelError(f"{model} holds a bare module, which has no pipeline to draw with: use it in Python")
    if device != "cpu":
        use_device(quantized.pipeline, device)
    module: Any = quantized.to_module("simulated" if device != "cpu" and backend == "auto" else backend)
    return Subject(module, quantized.pipeline, module.ptq4dm_backend, module.ptq4dm_notes)
