"""The float network on ONNX Runtime: the baseline that INT8 speed is compared with."""

import tempfile
from pathlib import Path

from torch import nn

from ptq4dm.backends.cpu.binding import BoundCall
from ptq4dm.backends.cpu.engine import Compiled, Engine
from ptq4dm.backends.cpu.onnxruntime.session import open_session, runner
from ptq4dm.backends.stand_in import stand_in
from ptq4dm.export.trace import trace_to_onnx
from ptq4dm.pipelines.denoiser import Call


def compile_float(network: nn.Module, example: Call) -> nn.Module:
    """`network` in FP32 on ONNX Runtime, with the same call signature and a dynamic batch.

    Raises BackendError if the network cannot be said in ONNX, MissingDependencyError without onnxruntime.
    """
    return stand_in(network, Engine(network, example, compile_graph))


def compile_graph(network: nn.Module, bound: BoundCall) -> Compiled:
    """One FP32 graph for calls like `bound`."""
    with tempfile.TemporaryDirectory() as folder:
        graph = trace_to_onnx(network, bound, Path(folder) / "float.onnx")
        session = open_session(graph.path)
    return Compiled(runner(session, graph), graph.output_spec)
