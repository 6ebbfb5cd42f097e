"""ONNX Runtime on the CPU: the FP32 baseline, and INT8 in the arithmetic `qdq`."""

from ptq4dm.backends.cpu.onnxruntime.float_baseline import compile_float

__all__ = ["compile_float"]
