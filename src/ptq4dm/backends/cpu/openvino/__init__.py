"""OpenVINO on the CPU: INT8 inputs and weights, int32 sums, float outputs; and the FP32 baseline."""

from ptq4dm.backends.cpu.openvino.float_baseline import compile_float

__all__ = ["compile_float"]
