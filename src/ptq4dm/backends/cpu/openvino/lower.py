"""A torch network with quantized layers as an OpenVINO graph.

The network is traced with each quantized layer as one opaque operator, `ptq4dm::quantized_layer(x, index)`, which the
conversion then replaces by INT8 nodes. Normalisation, attention and the layers of time are traced in a form that the
engine runs without changing the memory layout between convolutions, and about as carefully as PyTorch (`friendly`).
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ptq4dm.backends.cpu.binding import (
    BoundCall,
    Traceable,
    check_nothing_baked,
    for_tracing,
    samples_independent,
)
from ptq4dm.backends.cpu.openvino.friendly import friendly_forwards
from ptq4dm.backends.cpu.openvino.layer import can_express, layer_nodes
from ptq4dm.backends.cpu.openvino.passes import quantize_before_resizing
from ptq4dm.backends.cpu.openvino.unreported import unreported
from ptq4dm.backends.cpu.reads import reads_values
from ptq4dm.errors import BackendError, first_line
from ptq4dm.pipelines.denoiser import RAISED_BY_CALLS
from ptq4dm.pipelines.forwards import replaced_forward
from ptq4dm.quantization.layers import QuantizedLayer

if TYPE_CHECKING:
    import openvino as ov

OPERATOR = "ptq4dm::quantized_layer"
TRACED: ContextVar[tuple[QuantizedLayer, ...]] = ContextVar("TRACED", default=())
"""The quantized layers of the network being traced; the operator refers to them by index."""


@dataclass(frozen=True)
class Lowered:
    """A network as a graph with a dynamic batch. output_spec: the structure that its outputs belong in; independent:
    whether each sample's answer depends on its own inputs only."""

    model: "ov.Model"
    output_spec: pytree.TreeSpec
    independent: bool


def run_traced_layer(x: Tensor, index: int, channels_first: bool) -> Tensor:
    """The operator's meaning: layer `index` applied to `x`; channels_first: a linear layer along axis 1."""
    layer = TRACED.get()[index]
    if channels_first:
        return type(layer).forward(layer, x.movedim(1, -1)).movedim(-1, 1)
    return type(layer).forward(layer, x)


LIBRARY = torch.library.Library("ptq4dm", "FRAGMENT")
LIBRARY.define("quantized_layer(Tensor x, int index, bool channels_first) -> Tensor")
LIBRARY.impl("quantized_layer", run_traced_layer, "CPU")


def quantized_layers(network: nn.Module) -> dict[str, QuantizedLayer]:
    """The network's quantized layers by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}


@contextmanager
def layers_as_operators(layers: dict[str, QuantizedLayer]) -> Iterator[None]:
    """While open, each of `layers` runs as the opaque operator."""
    with ExitStack() as stack:
        stack.callback(TRACED.reset, TRACED.set(tuple(layers.values())))
        for index, layer in enumerate(layers.values()):
            stack.enter_context(replaced_forward(layer, operator_forward(index)))
        yield


def operator_forward(index: int) -> Any:
    """A forward that calls the operator for layer `index`."""

    def forward(input: Tensor, channels_first: bool = False) -> Tensor:
        return torch.ops.ptq4dm.quantized_layer(input, index, channels_first)

    return forward


def check_expressible(network: nn.Module) -> None:
    """Raise BackendError that names the first quantized layer which OpenVINO cannot run in INT8."""
    for name, layer in quantized_layers(network).items():
        reason = can_express(layer)
        if reason:
            raise BackendError(
                f"OpenVINO cannot run layer {name!r} ({reason}): use backend='simulated', or keep it in float"
            )


def small_batch(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tensors cut to a batch of two, which is all that tracing needs; one of another first size stays whole."""
    batch = max((tensor.shape[0] for tensor in tensors[:1] if tensor.dim()), default=0)
    return tuple(tensor[:2] if tensor.dim() and tensor.shape[0] == batch else tensor for tensor in tensors)


def samples_of(tensors: tuple[Tensor, ...]) -> int | None:
    """How many samples, maps or sequences, a call has; None where its inputs are rows and numbers only."""
    return next((len(tensor) for tensor in tensors if tensor.dim() > 2), None)


@torch.no_grad()
def lower(network: nn.Module, bound: BoundCall, friendly: bool = True) -> Lowered:
    """The graph for calls like `bound`, for any batch size.

    friendly: trace normalisation, attention and linear layers of rows in the engine's favourite form. Raises
    BackendError if a layer or an operation cannot be expressed.
    """
    import openvino as ov
    from openvino.frontend.pytorch import ConversionExtension

    layers = quantized_layers(network)
    names = tuple(layers)

    def convert(node: Any) -> list["ov.Output"]:
        index = int(node.get_values_from_const_input(1))
        channels_first = bool(node.get_values_from_const_input(2))
        return [layer_nodes(layers[names[index]], names[index], node.get_input(0), channels_first)]

    traceable, tensors = Traceable(network, bound).eval(), small_batch(for_tracing(bound))
    try:
        with layers_as_operators(layers), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer warns of every shape that a network checks in Python
            reads = reads_values(traceable, tensors)  # of the network itself: its friendly forms fold constants
            with friendly_forwards(network if friendly else nn.Identity(), samples_of(tensors)):
                traced: Any = torch.jit.trace(traceable, tensors, strict=False, check_trace=False)
                check_nothing_baked(traceable, traced, tensors, reads)
                independent = samples_independent(traced, tensors)
        with unreported():
            model = ov.convert_model(
                traced,
                example_input=tensors,
                input=[ov.PartialShape([-1, *tensor.shape[1:]] if tensor.dim() else []) for tensor in tensors],
                extension=[ConversionExtension(OPERATOR, convert)],
            )
    except (*RAISED_BY_CALLS, *frontend_failures()) as error:
        raise BackendError(
            f"OpenVINO cannot express {type(network).__name__} ({reason_of(error)}): use backend='simulated'"
        ) from error
    quantize_before_resizing(model)
    assert traceable.output_spec is not None
    return Lowered(model, traceable.output_spec, independent)


def frontend_failures() -> tuple[type[Exception], ...]:
    """What OpenVINO raises where it cannot convert a network; not all of it is a RuntimeError."""
    from openvino import frontend

    return (
        frontend.GeneralFailure,
        frontend.InitializationFailure,
        frontend.NotImplementedFailure,
        frontend.OpConversionFailure,
        frontend.OpValidationFailure,
    )


def reason_of(error: Exception) -> str:
    """Why a conversion failed: the operators that have no rule, else the first line of the error."""
    unknown = re.search(r"No conversion rule found for operations: (.+)", str(error))
    if unknown:
        return f"it has no rule for the operator {unknown[1].strip()}"
    return first_line(error)
