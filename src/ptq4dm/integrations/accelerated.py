"""`ptq4dm.accelerate(pipeline)`: real INT8 in a pipeline that diffusers loaded, in place."""

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ptq4dm.backends.base import Backend
from ptq4dm.backends.places import require_place
from ptq4dm.backends.registry import BACKENDS, prepare
from ptq4dm.backends.stand_in import stood_for
from ptq4dm.errors import ModelError, first_line
from ptq4dm.integrations.marking import quantization_of
from ptq4dm.pipelines.denoiser import Call, placement, torch_device
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.pipelines.unconditional import why_not_unconditional
from ptq4dm.quantization.float_types import half_type
from ptq4dm.quantization.quantized_model import example_call, exchange
from ptq4dm.quantization.time_axis import watch_time


def accelerate(
    pipeline: DiffusionPipeline,
    backend: str | Backend = "auto",
    device: str | torch.device | None = None,
    torch_dtype: torch.dtype | None = None,
) -> DiffusionPipeline:
    """Put real INT8 in place of every quantized denoiser of `pipeline`, and give it back.

    backend: `auto` takes the fastest that is exact here; a name takes that one, `simulated` swaps back. A denoiser
    whose inputs only its pipeline knows is compiled at the first call that the pipeline makes. `triton` runs on an
    NVIDIA GPU, in float16, bfloat16 or float32, and measures only a network that is there already.
    device, torch_dtype: the whole pipeline is moved there ("cuda") and cast (torch.float16) first; None: as it is.

    Raises ModelError if it is no pipeline, no part is quantized, or one is offloaded or where the backend does not
    compute; BackendError if the backend cannot run the network exactly on this processor, or not there or in that type;
    RecipeError for a device that is not here.
    """
    if not isinstance(pipeline, DiffusionPipeline):
        raise ModelError(
            f"a {type(pipeline).__name__} is no pipeline: give the DiffusionPipeline that calls the quantized network; "
            "what ptq4dm quantized or loaded has to_pipeline(backend=...) and, of a bare network, to_module(...)"
        )
    parts = {name: part for name, part in pipeline.components.items() if quantization_of(part) is not None}
    if not parts:
        raise ModelError(
            f"no part of this {type(pipeline).__name__} is quantized by ptq4dm: load an INT8 artifact with "
            "from_pretrained, or quantize the pipeline with ptq4dm.quantize"
        )
    for name, part in parts.items():
        if hasattr(part, "_hf_hook"):
            raise ModelError(f"{name} is being offloaded: accelerate the pipeline before enable_model_cpu_offload()")
        if "ptq4dm_layers" in vars(part):
            raise ModelError(
                f"{name} is on the triton backend, which keeps no other form of it: load the pipeline again"
            )
        if device is not None or torch_dtype is not None:
            require_place(backend, device, torch_dtype, arithmetic_of(part))
        there = placement(part)[0] if device is None else torch_device(device)
        dtype = torch_dtype or half_type(part) or placement(part)[1]
        if on_cpu_only(backend, there) and (there.type, dtype) != ("cpu", torch.float32):
            raise ModelError(
                f"{name} is on {there} in {dtype}, and INT8 engines compute on the CPU in float32: load the pipeline "
                "without torch_dtype and leave it on the CPU, or use backend='triton' on an NVIDIA GPU"
            )
    if device is not None or torch_dtype is not None:
        move(pipeline, device, torch_dtype)
    example = example_of(pipeline)
    exchange(pipeline, {id(part): on_backend(part, example, backend) for part in parts.values()})
    return pipeline


def move(pipeline: DiffusionPipeline, device: str | torch.device | None, dtype: torch.dtype | None) -> None:
    """Move and cast a pipeline. Raises ModelError where diffusers refuses."""
    try:
        pipeline.to(None if device is None else torch_device(device), dtype)
    except ValueError as error:  # a part is offloaded, or mapped to devices
        raise ModelError(f"this {type(pipeline).__name__} cannot be moved: {first_line(error)}") from error


def on_cpu_only(backend: str | Backend, device: torch.device) -> bool:
    """Whether a backend, by name or as an object, computes on the CPU alone; `auto` does for a network that is
    there."""
    if backend == "auto":
        return device.type != "cuda"
    known = BACKENDS.get(backend) if isinstance(backend, str) else backend
    return known is not None and known.device == "cpu"


def on_backend(part: nn.Module, example: Call | None, backend: str | Backend) -> nn.Module:
    """A quantized network, or one accelerated before, on a backend."""
    config, network = quantization_of(part), stood_for(part)
    assert config is not None  # `accelerate` asked
    watch_time(network, None)  # the calls that engines are timed with are no use
    try:
        return prepare(network, example, backend, config.arithmetic)
    finally:
        watch_time(network, config.time_axis)


def arithmetic_of(part: nn.Module) -> str:
    """The arithmetic of a quantized network."""
    config = quantization_of(part)
    assert config is not None  # `accelerate` asked
    return config.arithmetic


def example_of(pipeline: DiffusionPipeline) -> Call | None:
    """A call of the denoiser where it is known without a run: of unconditional pixel models."""
    if why_not_unconditional(pipeline):
        return None
    return example_call(Pipeline(pipeline, type(pipeline).__name__, ("unet",)))
