"""QuantizedModel: the product of the job, from which every backend, file and picture comes."""

import copy
from collections.abc import Mapping, Sequence
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

    def to_module(
        self,
        backend: "str | Backend",
        arithmetic: str,
        device: str | torch.device | None = None,
        torch_dtype: torch.dtype | None = None,
    ) -> nn.Module:
        """The network on a backend, with the class and call signature of the float one. Raises BackendError.

        device, torch_dtype: where a copy of it goes, and the type that it is cast to, before the backend prepares it,
        if it is not there already.
        """
        from ptq4dm.backends.places import require_place  # backends come later in the walk; nothing above needs them
        from ptq4dm.backends.registry import prepare
        from ptq4dm.integrations.marking import marked

        axis = self.facts.get("time_axis")
        if device is not None or torch_dtype is not None:
            require_place(backend, device, torch_dtype, arithmetic)
        network = network_on(self.network, device, torch_dtype)
        watch_time(network, None)  # the calls that engines are timed with are no use
        try:
            return prepare(marked(network, arithmetic, axis), self.example, backend, arithmetic)
        finally:
            watch_time(network, axis)


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

    def to_module(
        self,
        backend: "str | Backend" = "auto",
        component: str | None = None,
        device: str | torch.device | None = None,
        torch_dtype: torch.dtype | None = None,
    ) -> nn.Module:
        """A denoiser on a backend (its name, or an object such as `TritonBackend(strict=True)`), with the class and
        call signature of the float one. device, torch_dtype: as in `to_pipeline`. Raises BackendError, RecipeError."""
        return self.denoiser(component).to_module(backend, self.recipe.arithmetic, device, torch_dtype)

    def to_pipeline(
        self,
        backend: "str | Backend" = "auto",
        device: str | torch.device | None = None,
        torch_dtype: torch.dtype | None = None,
    ) -> DiffusionPipeline:
        """A diffusers pipeline of the user's own class with the quantized denoisers in place.

        device, torch_dtype: where the pipeline goes ("cuda") and the type that it is cast to (torch.float16), before
        the backend prepares the denoisers: only there can `triton` time each layer in INT8 and in float and keep the
        faster, and hold weights in half precision once. What is elsewhere, or of another type, is copied: the model,
        and the pipeline it was made from, stay as they are. None: as they are.

        Raises BackendError for a backend that cannot run the denoisers, or not there or in that type; RecipeError for a
        device that is not here; ModelError for a bare module, or where a part of the pipeline is offloaded.
        """
        if self.pipeline is None:
            raise ModelError("this model was quantized from a bare module, which has no pipeline: use to_module()")
        networks = {name: self.to_module(backend, name, device, torch_dtype) for name in self.denoisers}
        source = with_denoisers(self.pipeline, networks).source
        if device is not None or torch_dtype is not None:
            exchange(source, parts_on(source, list(networks.values()), device, torch_dtype))
        return source

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


def parts_on(
    source: DiffusionPipeline,
    ready: Sequence[nn.Module],
    device: str | torch.device | None,
    dtype: torch.dtype | None,
) -> dict[int, nn.Module]:
    """Copies of the parts of a pipeline that are elsewhere or of another type, by the id of the old; not of those that
    are ready. Raises ModelError where one is offloaded."""
    there: dict[int, nn.Module] = {}
    for name, part in source.components.items():
        if not isinstance(part, nn.Module) or any(part is one for one in ready):
            continue
        if hasattr(part, "_hf_hook"):
            raise ModelError(
                f"{name} is being offloaded, so the pipeline cannot be moved: leave device and torch_dtype out, or "
                "quantize the pipeline before enable_model_cpu_offload()"
            )
        there[id(part)] = network_on(part, device, dtype)
    return there


def compiled(
    model: QuantizedModel,
    backend: "str | Backend",
    shown: bool = False,
    device: str | None = None,
    torch_dtype: torch.dtype | None = None,
    batch: int | None = None,
) -> Any:
    """The only denoiser on a backend, with its name and notes. shown: a bar, since engines take a while to compile.

    device, torch_dtype: as in `to_pipeline`. batch: of the calls to come, for what is measured off the CPU, where the
    faster of two kernels depends on it. Raises BackendError.
    """
    from ptq4dm.backends.registry import find_backend  # as above

    if backend != "auto":
        find_backend(backend, model.recipe.arithmetic)  # a mistake is told of before a bar is drawn
    if batch is not None and device is not None and torch_device(device).type != "cpu" and model.pipeline is not None:
        example = example_call(model.pipeline, batch)
        model = replace(model, denoisers={k: replace(item, example=example) for k, item in model.denoisers.items()})
    with progress("compiling", 1, shown) as advance:
        module = model.to_module(backend, device=device, torch_dtype=torch_dtype)
        advance(1)
    return module


def pipeline_on(pipeline: Pipeline, device: str, dtype: torch.dtype | None = None) -> Pipeline:
    """The pipeline itself where its denoiser computes on that torch device already (and in that type), else one with a
    copy of the denoiser there. A conditional pipeline, whose parts work together, is moved as a whole. Raises
    RecipeError."""
    if not pipeline.components:
        pipeline.source.to(torch_device(device), dtype)
        return pipeline
    network = network_on(pipeline.denoiser, device, dtype)
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
