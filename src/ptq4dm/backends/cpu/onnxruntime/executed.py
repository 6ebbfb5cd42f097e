"""What ONNX Runtime really runs for each quantized layer, read from the graph as it rewrote it."""

from pathlib import Path
from typing import Any

from torch import nn

from ptq4dm.backends.cpu.engine import ExecutedLayer
from ptq4dm.quantization.layers_qdq import quantized_names

INT8_NODES = {"QLinearConv", "MatMulIntegerToFloat", "QGemm", "QLinearMatMul", "MatMulInteger"}
"""Node types that multiply integers; everything else multiplies floats."""


def executed_layers(network: nn.Module, optimized: Path) -> tuple[ExecutedLayer, ...]:
    """The node that each quantized layer of `network` became, by the weights that it multiplies."""
    import onnx

    nodes = multiplying_nodes(onnx.load(str(optimized)))
    layers = []
    for name in quantized_names(network):
        node = next((nodes[key] for key in (f"{name}.weight", f"{name}.layer.weight") if key in nodes), "not found")
        int8 = node in INT8_NODES
        layers.append(ExecutedLayer(name, node, int8, "MLAS", "u8s8" if int8 else "f32"))
    return tuple(layers)


def multiplying_nodes(model: Any) -> dict[str, str]:
    """The type of the node that consumes each initializer, seen through those that only reshape or dequantize it."""
    consumers: dict[str, Any] = {}
    for node in model.graph.node:
        for tensor in node.input:
            consumers.setdefault(tensor, node)
    found = {}
    for item in model.graph.initializer:
        node = consumers.get(item.name)
        while node is not None and node.op_type in ("DequantizeLinear", "Reshape", "Transpose", "Cast"):
            node = consumers.get(node.output[0])
        if node is not None:
            found[item.name] = node.op_type
    return found
