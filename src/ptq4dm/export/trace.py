"""A torch network as an ONNX graph, traced by torch's own exporter, with a dynamic batch."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ptq4dm.backends.cpu.binding import BoundCall, Traceable, check_nothing_baked, for_tracing
from ptq4dm.backends.cpu.reads import reads_values
from ptq4dm.errors import BackendError, MissingDependencyError, first_line

OPSET = 17


@dataclass(frozen=True)
class TracedGraph:
    """An ONNX file, the names of its inputs and outputs, and the structure its outputs belong in."""

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    output_spec: pytree.TreeSpec


@torch.no_grad()
def trace_to_onnx(network: nn.Module, bound: BoundCall, path: Path, plain: bool = False) -> TracedGraph:
    """Write `network` as traced on the call `bound` to `path` (opset 17). The first axis of each tensor is dynamic.

    plain: the network is known to read none of its inputs in Python, so that is not looked for.
    Raises BackendError if the network has operations that ONNX cannot say, MissingDependencyError without onnx.
    """
    check_onnx()
    traceable, tensors = Traceable(network, bound).eval(), for_tracing(bound)
    count = len(traceable(*tensors))
    outputs = tuple(f"output_{index}" for index in range(count)) if count > 1 else ("output",)
    dynamic = {name: {0: f"batch_of_{name}"} for name, x in zip(bound.names, tensors, strict=True) if x.dim()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer warns of every shape that a network checks in Python
            if not plain:
                traced: Any = torch.jit.trace(traceable, tensors, strict=False, check_trace=False)
                check_nothing_baked(traceable, traced, tensors, reads_values(traceable, tensors))
            torch.onnx.export(
                traceable,
                tensors,
                str(path),
                input_names=list(bound.names),
                output_names=list(outputs),
                dynamic_axes={**dynamic, **{name: {0: f"batch_of_{name}"} for name in outputs}},
                opset_version=OPSET,
                dynamo=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise BackendError(
            f"{type(network).__name__} cannot be said in ONNX ({first_line(error)}): use another backend"
        ) from error
    assert traceable.output_spec is not None
    return TracedGraph(path, bound.names, outputs, traceable.output_spec)


def check_onnx() -> None:
    """Raise MissingDependencyError unless onnx can be imported."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise MissingDependencyError("the ONNX export needs onnx: pip install 'ptq4dm[onnxruntime]'") from None
