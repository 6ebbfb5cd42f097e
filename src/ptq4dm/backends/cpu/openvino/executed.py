"""Which nodes OpenVINO really ran in INT8, read from the compiled graph."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ptq4dm.backends.cpu.engine import ExecutedLayer, worst

if TYPE_CHECKING:
    import openvino as ov

MULTIPLYING = ("Convolution", "GroupConvolution", "FullyConnected", "FullyConnectedQuantizedLegacy", "MatMul")
INTEGER = ("i8", "u8")


def executed_layers(compiled: "ov.CompiledModel", layers: Iterable[str]) -> tuple[ExecutedLayer, ...]:
    """For each of the quantized `layers`: the engine's node, its kernel and precision, and whether that is INT8.

    A layer that no node accounts for is listed as type "missing", int8=False.
    """
    nodes: dict[str, list[ExecutedLayer]] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if text(info, "layerType") not in MULTIPLYING:
            continue
        for origin in text(info, "originalLayersNames").split(","):
            name = origin.split("/")[0]  # a fused node is called "name/DequantizationMultiply"
            nodes.setdefault(name, []).append(executed_layer(name, info))
    return tuple(worst(nodes.get(name, [ExecutedLayer(name, "missing", False)])) for name in layers)


def executed_layer(name: str, info: Any) -> ExecutedLayer:
    """What the runtime information of one node says. "jit_avx2_I8" is the kernel jit_avx2 in INT8."""
    primitive, precision = text(info, "primitiveType"), text(info, "runtimePrecision")
    int8 = primitive.lower().endswith(INTEGER) and precision in INTEGER
    return ExecutedLayer(name, text(info, "layerType"), int8, primitive, precision)


def text(info: Any, key: str) -> str:
    """One entry of a node's runtime information as text."""
    return info[key].astype(str)
