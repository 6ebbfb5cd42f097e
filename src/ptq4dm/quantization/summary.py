"""The totals of a quantized model: layers, multiply-adds, bytes."""

from typing import Any

from ptq4dm.quantization.quantized_model import QuantizedModel


def summary(model: QuantizedModel) -> dict[str, Any]:
    """Plain JSON data: layers, quantized, macs, int8_share (of the multiply-adds), float_bytes, int8_bytes, ratio."""
    layers = [layer for layer in model.plan if layer.macs is not None]
    macs = sum(layer.macs or 0 for layer in layers)
    in_int8 = sum(layer.macs or 0 for layer in layers if layer.quantized)
    float_bytes = model.facts["model"]["float_bytes"]
    return {
        "layers": len(model.plan),
        "quantized": sum(layer.quantized for layer in model.plan),
        "macs": macs,
        "int8_share": in_int8 / macs if macs else 0.0,
        "float_bytes": float_bytes,
        "int8_bytes": model.int8_bytes,
        "ratio": float_bytes / model.int8_bytes,
    }
