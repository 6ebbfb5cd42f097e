"""What `sample` draws with: a float model, or a quantized one on a backend."""

from dataclasses import dataclass

from torch import nn

from ptq4dm.errors import ModelError
from ptq4dm.pipelines.denoiser import network_on, torch_device
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
    model: str, is_float: bool, backend: str, device: str, sampler: tuple[str, int], shown: bool = False
) -> Subject:
    """Open a float model or an artifact, to draw with a scheduler in so many steps. shown: a bar while engines compile.

    Raises PTQ4DMError.
    """
    if is_float:
        if backend != "auto":
            raise ModelError(
                f"backend {backend!r} beside --float: the float model runs in PyTorch, leave --backend out"
            )
        pipeline = pipeline_on(open_pipeline(model), device)
        return Subject(pipeline.denoiser, pipeline, "float")
    elsewhere = torch_device(device).type != "cpu"
    quantized = load(model)
    if quantized.pipeline is None:
        raise ModelError(f"{model} holds a bare module, which has no pipeline to draw with: use it in Python")
    name, steps = sampler
    require_steps(name, quantized.pipeline.scheduler.config, steps)
    module = compiled(quantized, "simulated" if elsewhere and backend == "auto" else backend, shown)
    network = network_on(module, device) if module.ptq4dm_backend == "simulated" else module
    return Subject(network, quantized.pipeline, module.ptq4dm_backend, module.ptq4dm_notes)
