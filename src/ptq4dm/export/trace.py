"""A torch network as an ONNX graph, traced by torch's own exporter, with a dynamic batch."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ptq4dm.backends.cpu.binding import BoundCall, Traceable, for_tracing
from ptq4dm.errors import BackendError, MissingDependencyError

OPSET = 17


@dataclass(frozen=True)
class TracedGraph:
    """An ONNX file, the names of its inputs and outputs, and the structure its outputs belong in."""

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    output_spec: pytree.TreeSpec


@torch.no_grad()
def trace_to_onnx(network: nn.Module, bound: BoundCall, path: Path) -> TracedGraph:
    """Write `network` as traced on the call `bound` to `path` (opset 17). The first axis of each tensor is dynamic.

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
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackendError(f"{type(network).__name__} cannot be said in ONNX ({first}): use another backend") from error
    check_nothing_baked(network, traceable, tensors, path)
    assert traceable.output_spec is not None
    return TracedGraph(path, bound.names, outputs, traceable.output_spec)


def check_nothing_baked(network: nn.Module, traceable: Traceable, tensors: tuple[Tensor, ...], path: Path) -> None:
    """Raise BackendError if an input that the graph does not use matters to the network: tracing made it a constant."""
    used = used_names(path)
    for index, name in enumerate(traceable.bound.names):
        if name in used:
            continue
        for other in others(tensors[index]):
            changed = (*tensors[:index], other, *tensors[index + 1 :])
            if any(not torch.equal(a, b) for a, b in zip(traceable(*tensors), traceable(*changed), strict=True)):
                raise BackendError(
                    f"{type(network).__name__} reads {name} in Python (as with .item() or if), so a graph would hold "
                    "it fixed: compute with it as a tensor, or use backend='simulated'"
                )


def others(tensor: Tensor) -> tuple[Tensor, ...]:
    """Other values that an input might have: none beyond its own range, unless it is 0."""
    zero = torch.zeros_like(tensor)
    if torch.equal(tensor, zero):
        return (zero + 1,) if tensor.dtype != torch.bool else (~zero,)
    return (zero, tensor / 2 if tensor.is_floating_point() else (tensor.long() // 2).to(tensor.dtype))


def used_names(path: Path) -> set[str]:
    """The names in an ONNX file that a node reads, or that are outputs."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    return {name for node in graph.node for name in node.input} | {item.name for item in graph.output}


def check_onnx() -> None:
    """Raise MissingDependencyError unless onnx can be imported."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise MissingDependencyError("the ONNX export needs onnx: pip install 'ptq4dm[onnxruntime]'") from None
