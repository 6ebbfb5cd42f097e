"""ONNX Runtime sessions: how one is opened, and how torch tensors pass through it without needless copies."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptq4dm.errors import BackendError, MissingDependencyError
from ptq4dm.export.trace import TracedGraph

ERRORS_ONLY = 3
"""ONNX Runtime's log level for errors: its warnings speak of unused initializers."""


def why_unavailable() -> str | None:
    """None where ONNX Runtime can be imported, else the line that says how to install it."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        return "onnxruntime is not installed: pip install 'ptq4dm[onnxruntime]'"
    return None


def open_session(
    model: Path | bytes, optimized: Path | None = None, optimize: bool = True, without: Sequence[str] = ()
) -> Any:
    """A session on the CPU, on as many threads as torch uses.

    optimized: where to save the graph as ONNX Runtime rewrote it. optimize=False runs each node as written: the
    float meaning of a QDQ graph. without: names of ONNX Runtime's optimizers to leave out. Raises BackendError for a
    graph that ONNX Runtime refuses, MissingDependencyError without onnxruntime.
    """
    reason = why_unavailable()
    if reason:
        raise MissingDependencyError(reason)
    onnxruntime: Any = importlib.import_module("onnxruntime")
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    source = model if isinstance(model, bytes) else str(model)
    providers = ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(source, options, providers, disabled_optimizers=list(without))
    except refusals() as error:
        raise BackendError(
            f"ONNX Runtime {onnxruntime.__version__} refuses the graph of the network: {error}; backend='simulated' "
            "runs every network"
        ) from error


def refusals() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a graph that it cannot load; its exceptions have no base of their own."""
    state: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    return (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException)


def runner(session: Any, graph: TracedGraph) -> Callable[[tuple[Tensor, ...]], list[Tensor]]:
    """A function from the graph's input tensors to its output tensors; both sides share memory with NumPy."""
    used = {item.name for item in session.get_inputs()}

    def run(tensors: tuple[Tensor, ...]) -> list[Tensor]:
        feeds = {
            name: tensor.contiguous().numpy()
            for name, tensor in zip(graph.inputs, tensors, strict=True)
            if name in used
        }
        return [torch.from_numpy(array) for array in session.run(list(graph.outputs), feeds)]

    return run
