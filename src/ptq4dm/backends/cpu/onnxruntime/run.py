"""The backend `onnxruntime`: INT8 on the CPU in the arithmetic `qdq`."""

import tempfile
from pathlib import Path

from torch import nn

from ptq4dm.backends.cpu.binding import BoundCall
from ptq4dm.backends.cpu.engine import Compiled, Engine, warn_of_float
from ptq4dm.backends.cpu.onnxruntime.executed import executed_layers
from ptq4dm.backends.cpu.onnxruntime.self_check import UNFUSED, check_exact
from ptq4dm.backends.cpu.onnxruntime.session import open_session, runner, why_unavailable
from ptq4dm.backends.stand_in import stand_in
from ptq4dm.errors import MissingDependencyError
from ptq4dm.export.onnx_qdq import write_qdq
from ptq4dm.pipelines.denoiser import Call


class OnnxRuntimeBackend:
    """Convolutions as QLinearConv (8-bit outputs), linear layers as MatMulIntegerToFloat; the rest in float."""

    name = "onnxruntime"
    arithmetic = "qdq"
    device = "cpu"

    def unavailable(self) -> str | None:
        """None where ONNX Runtime can be used, else why not and the pip line."""
        return why_unavailable()

    def prepare(self, network: nn.Module, example: Call | None) -> nn.Module:
        """`network` (in the arithmetic `qdq`) on ONNX Runtime, with the same call signature.

        Raises BackendError if the network cannot be said in ONNX or ONNX Runtime is not exact on this processor,
        MissingDependencyError without onnxruntime.
        """
        reason = self.unavailable()
        if reason:
            raise MissingDependencyError(reason)
        return stand_in(network, Engine(network, example, compile_checked))


def compile_checked(network: nn.Module, bound: BoundCall) -> Compiled:
    """One INT8 graph for calls like `bound`. Raises BackendError if ONNX Runtime is not exact on this processor."""
    graph = compile_graph(network, bound)
    check_exact(network, [layer.layer for layer in graph.executed if layer.int8])
    warn_of_float("ONNX Runtime", graph.executed)
    return graph


def compile_graph(network: nn.Module, bound: BoundCall) -> Compiled:
    """One INT8 graph for calls like `bound`, and what ONNX Runtime made of it."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        graph = write_qdq(network, bound, Path(folder) / "qdq.onnx")
        session = open_session(graph.path, optimized, without=UNFUSED)
        return Compiled(runner(session, graph), graph.output_spec, [executed_layers(network, optimized)])
