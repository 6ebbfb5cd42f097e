"""QuantizedModel: the product of the job, from which every backend, file and picture comes."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ptq4dm.pipelines.denoiser import Call
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.quantization.plan import LayerPlan
from ptq4dm.recipe import Recipe


@dataclass(frozen=True)
class QuantizedModel:
    """A quantized denoiser and all that is known of how it came about.

    network: the simulated network (pure torch; it defines the numbers), with `QuantizedLayer`s in place.
    pipeline: the user's pipeline with `network` as its denoiser, or None for a bare module.
    example: one call of the network, from which engines learn its inputs.
    plan: every layer, quantized or not, with the reason. facts: model, calibration, ranges: plain JSON data.
    """

    network: nn.Module
    pipeline: Pipeline | None
    example: Call
    plan: tuple[LayerPlan, ...]
    recipe: Recipe
    facts: dict[str, Any] = field(default_factory=dict)

    def to_module(self, backend: str = "auto") -> nn.Module:
        """The denoiser on a backend, with the call signature of the float one. Raises BackendError."""
        from ptq4dm.backends.registry import prepare  # backends come later in the walk; nothing above needs them
        from ptq4dm.integrations.marking import marked

        module, chosen, notes = prepare(
            marked(self.network, self.recipe.arithmetic), self.example, backend, self.recipe.arithmetic
        )
        object.__setattr__(module, "ptq4dm_backend", chosen)
        object.__setattr__(module, "ptq4dm_notes", tuple(notes))
        return module

    def to_pipeline(self, backend: str = "auto") -> DiffusionPipeline:
        """A diffusers pipeline of the user's own class with the quantized denoiser in place. Raises BackendError."""
        from ptq4dm.errors import ModelError

        if self.pipeline is None:
            raise ModelError("this model was quantized from a bare module, which has no pipeline: use to_module()")
        return with_denoiser(self.pipeline, self.to_module(backend)).source

    def save(self, folder: str | Path) -> Path:
        """Write the artifact, a diffusers pipeline folder with INT8 weights, whole or not at all."""
        from ptq4dm.quantization.artifact import write_artifact

        return write_artifact(self, Path(folder))

    def export_onnx(self, path: str | Path) -> Path:
        """Write the denoiser as standard QDQ ONNX: dynamic batch, the time-step an input. Raises BackendError."""
        from ptq4dm.export.onnx_qdq import export_qdq

        return export_qdq(self.network, self.example, path)

    @cached_property
    def int8_bytes(self) -> int:
        """Bytes of the quantized denoiser's tensors."""
        return tensor_bytes(self.network)


def with_denoiser(pipeline: Pipeline, denoiser: nn.Module) -> Pipeline:
    """A copy of a pipeline in which only the denoiser is another; the user's own pipeline is left as it was."""
    components = {**pipeline.source.components, pipeline.component: denoiser}
    source = type(pipeline.source)(**components)
    source.set_progress_bar_config(**getattr(pipeline.source, "_progress_bar_config", {}))
    return replace(pipeline, source=source)


def example_call(pipeline: Pipeline, batch: int = 2) -> Call:
    """A call as pipelines and the sampling loop make it: x_t ~ N(0, I) of `batch` pictures, one 0-d time-step."""
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn((batch, *pipeline.picture_shape), generator=generator)
    return Call((x_t, torch.tensor(pipeline.num_train_timesteps // 2)))


def tensor_bytes(network: nn.Module) -> int:
    """Bytes of all parameters and saved buffers of a network."""
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
