"""A quantized network as a standard QDQ ONNX file, for the runtimes that read it."""

import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from ptq4dm import files
from ptq4dm.backends.cpu.binding import BoundCall, bind
from ptq4dm.errors import BackendError
from ptq4dm.export.qdq_layers import with_qdq_layers
from ptq4dm.export.trace import TracedGraph, check_onnx, trace_to_onnx
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.attention_products import refuse_products
from ptq4dm.quantization.time_bands import refuse_bands

PROTOBUF_LIMIT = 2 << 30
"""Bytes that one ONNX file can hold."""


def export_qdq(network: nn.Module, example: Call, path: str | Path) -> Path:
    """Write `network`, which has quantized layers, as QDQ ONNX: opset 17, dynamic batch, a call's tensors as inputs.

    Activations are uint8 per tensor, asymmetric; weights int8 per output channel behind DequantizeLinear; bias float.
    Run as written, the graph computes what the simulated backend computes, to float rounding; a runtime that fuses it
    multiplies in INT8. The layers of a network in the arithmetic `qdq` have their outputs quantized as well.

    Returns the path. Raises BackendError if the network cannot be said in ONNX, MissingDependencyError without onnx,
    ArtifactError if the file cannot be written.
    """
    refuse_products(network, "the ONNX export")
    refuse_bands(network, "the ONNX export")
    with tempfile.TemporaryDirectory() as folder, files.new_file(Path(path)) as building:
        graph = write_qdq(network, bind(network, example), Path(folder) / "qdq.onnx")
        check_model(graph.path)
        building.write_bytes(graph.path.read_bytes())
    return Path(path)


def write_qdq(network: nn.Module, bound: BoundCall, path: Path, plain: bool = False) -> TracedGraph:
    """Trace the QDQ form of `network` on one call; plain: see `trace_to_onnx`.

    Raises BackendError, MissingDependencyError without onnx.
    """
    check_onnx()
    import onnx

    graph = trace_to_onnx(with_qdq_layers(network), bound, path, plain)
    model = onnx.load(str(path))
    tidy(model)
    if model.ByteSize() > PROTOBUF_LIMIT:
        raise BackendError(f"{type(network).__name__} is larger than the 2 GiB of one ONNX file: use another backend")
    onnx.save_model(model, str(path))
    return graph


def tidy(model: Any) -> None:
    """Give every layer tensors of its own, named as in the network (the tracer merges equal ones behind Identity)."""
    prefix = "network."
    merged = {item.name: item for item in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type == "Identity" and node.input[0] in merged:
            copy = model.graph.initializer.add()
            copy.CopyFrom(merged[node.input[0]])
            copy.name = node.output[0]
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for item in model.graph.initializer:
        item.name = item.name.removeprefix(prefix)
    for node in model.graph.node:
        node.input[:] = [name.removeprefix(prefix) for name in node.input]
        node.name = node.name.replace("/network/", "/", 1)


def check_model(path: Path) -> None:
    """Let onnx check the file, types and shapes too. Raises BackendError."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BackendError(f"the exported ONNX graph is not valid: {error}") from error
