"""QuantizedModel: the product of the job, from which every backend, file and picture comes."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ptq4dm.errors import BackendError, ModelError
from ptq4dm.pipelines.denoiser import Call, network_on, torch_device
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.progress import progress
from ptq4dm.quantization.plan import LayerPlan
from ptq4dm.quantization.time_axis import watch_time
from ptq4dm.recipe import Recipe

if TYPE_CHECKING:
    from ptq4dm.backends.base import Backend

BARE = "module"
"""The name of the one network of a model that was quantized from a bare module."""


@dataclass(frozen=True)
class QuantizedDenoiser:
    """One quantized network of a model.

    network: the simulated network (pure torch; it defines the numbers), with `QuantizedLayer`s in place.
    plan: every layer, quantized or not, with the reason. example: one call of the network, from which engines learn
    its inputs; None if they learn them from the first call that is made. facts: plain JSON data. folded: the smoothing
    factors that layers took in, (channels,) by layer.
    """

    network: nn.Module
    plan: tuple[LayerPlan, ...]
    example: Call | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    folded: Mapping[str, Tensor] = field(default_factory=dict)

    def to_module(self, backend: "str | Backend", arithmetic: str) -> nn.Module:
        """The network on a backend, with the class and call signature of the float one. Raises BackendError."""
        from ptq4dm.backends.registry import prepare  # backends come later in the walk; nothing above needs them
        from ptq4dm.integrations.marking import marked

        axis = self.facts.get("time_axis")
        watch_time(self.network, None)  # the calls that engines are timed with are no use
        try:
            return prepare(marked(self.network, arithmetic, axis), self.example, backend, arithmetic)
        finally:
            watch_time(self.network, axis)


@dataclass(frozen=True)
class QuantizedModel:
    """A pipeline with quantized denoisers and all that is known of how they came about.

    denoisers: by the name of their component ("unet", "transformer", ...), of a bare module the one called "module".
    pipeline: the user's pipeline with the simulated networks as its denoisers, None for a bare module.
    facts: model and calibration: plain JSON data.
    """

    denoisers: Mapping[str, QuantizedDenoiser]
    pipeline: Pipeline | None
    recipe: Recipe
    facts: dict[str, Any] = field(default_factory=dict)

    def denoiser(self, component: str | None = None) -> QuantizedDenoiser:
        """One quantized denoiser by name; without a name the only one. Raises ModelError."""
        names = ", ".join(self.denoisers)
        if component is None and len(self.denoisers) > 1:
            raise ModelError(f"this model has several denoisers: name one of {names}")
        name = next(iter(self.denoisers)) if component is None else component
        if name not in self.denoisers:
            raise ModelError(f"this model has no denoiser {name!r}: accepted are {names}")
        return self.denoisers[name]

    @property
    def network(self) -> nn.Module:
        """The simulated network of the only denoiser."""
        return self.denoiser().network

    @property
    def plan(self) -> tuple[LayerPlan, ...]:
        """The layers of all denoisers; with several, each name starts with its component."""
        if len(self.denoisers) == 1:
            return self.denoiser().plan
        return tuple(
            replace(layer, name=f"{name}.{layer.name}") for name, item in self.denoisers.items() for layer in item.plan
        )

    def to_module(self, backend: "str | Backend" = "auto", component: str | None = None) -> nn.Module:
        """A denoiser on a backend (its name, or an object such as `TritonBackend(strict=True)`), with the class and
        call signature of the float one. Raises BackendError."""
        return self.denoiser(component).to_module(backend, self.recipe.arithmetic)

    def to_pipeline(self, backend: "str | Backend" = "auto") -> DiffusionPipeline:
        """A diffusers pipeline of the user's own class with the quantized denoisers in place. Raises BackendError."""
        if self.pipeline is None:
            raise ModelError("this model was quantized from a bare module, which has no pipeline: use to_module()")
        return with_denoisers(self.pipeline, {name: self.to_module(backend, name) for name in self.denoisers}).source

    def save(self, folder: str | Path) -> Path:
        """Write the artifact, a diffusers pipeline folder with INT8 weights, whole or not at all."""
        from ptq4dm.quantization.artifact import write_artifact

        return write_artifact(self, Path(folder))

    def export_onnx(self, path: str | Path, component: str | None = None) -> Path:
        """Write a denoiser as standard QDQ ONNX: dynamic batch, the time-step an input. Raises BackendError."""
        from ptq4dm.export.onnx_qdq import export_qdq

        denoiser = self.denoiser(component)
        if denoiser.example is None:
            raise BackendError(
                f"an export needs a call of {type(denoiser.network).__name__} to learn its inputs from, and this model "
                "was loaded without one: ptq4dm.load(folder, ..., example=ptq4dm.Call((x, t)))"
            )
        return export_qdq(denoiser.network, denoiser.example, path)

    @cached_property
    def int8_bytes(self) -> int:
        """Bytes of the quantized denoisers' tensors."""
        return sum(tensor_bytes(item.network) for item in self.denoisers.values())


def with_denoisers(pipeline: Pipeline, denoisers: Mapping[str, nn.Module]) -> Pipeline:
    """A copy of a pipeline in which only denoisers are others; the user's own pipeline is left as it was."""
    others = {id(getattr(pipeline.source, name)): module for name, module in denoisers.items()}
    source = shell_of(pipeline.source)
    exchange(source, others)
    return replace(pipeline, source=source)


def simulated(pipeline: Pipeline, quantized: Mapping[str, QuantizedDenoiser]) -> Pipeline:
    """The pipeline with simulated networks as its denoisers."""
    return with_denoisers(pipeline, {name: item.network for name, item in quantized.items()})


def shell_of(source: DiffusionPipeline) -> DiffusionPipeline:
    """A copy of a pipeline, and of the pipelines that it is combined of, that shares all their parts."""
    result = copy.copy(source)
    for name, part in vars(source).items():
        if isinstance(part, DiffusionPipeline):
            vars(result)[name] = shell_of(part)
    return result


def exchange(source: DiffusionPipeline, others: Mapping[int, nn.Module]) -> None:
    """Put other modules, by the id of the old, in a pipeline and in the pipelines that it is combined of."""
    found = {name: others[id(part)] for name, part in source.components.items() if id(part) in others}
    source.register_modules(**found)
    for part in vars(source).values():
        if isinstance(part, DiffusionPipeline):
            exchange(part, others)


def compiled(model: QuantizedModel, backend: str, shown: bool = False) -> Any:
    """The only denoiser on a backend, with its name and notes. shown: a bar, since engines take a while to compile.

    Raises BackendError.
    """
    from ptq4dm.backends.registry import find_backend  # as above

    if backend != "auto":
        find_backend(backend, model.recipe.arithmetic)  # a mistake is told of before a bar is drawn
    with progress("compiling", 1, shown) as advance:
        module = model.to_module(backend)
        advance(1)
    return module


def pipeline_on(pipeline: Pipeline, device: str) -> Pipeline:
    """The pipeline itself where its denoiser computes on that torch device already, else one with a copy of the
    denoiser there. A conditional pipeline, whose parts work together, is moved as a whole. Raises RecipeError."""
    if not pipeline.components:
        pipeline.source.to(torch_device(device))
        return pipeline
    network = network_on(pipeline.denoiser, device)
    return pipeline if network is pipeline.denoiser else with_denoisers(pipeline, {pipeline.component: network})


def example_call(pipeline: Pipeline, batch: int = 2) -> Call:
    """A call as pipelines and the sampling loop make it: x_t ~ N(0, I) of `batch` pictures, one 0-d time-step."""
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn((batch, *pipeline.picture_shape), generator=generator)
    return Call((x_t, torch.tensor(pipeline.num_train_timesteps // 2)))


def tensor_bytes(network: nn.Module) -> int:
    """Bytes of all parameters and saved buffers of a network, each counted once whatever number of names it has."""
    tensors = {id(tensor): tensor for tensor in network.state_dict(keep_vars=True).values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
