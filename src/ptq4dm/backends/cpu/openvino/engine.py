"""OpenVINO itself: whether it is here, how a graph is compiled, how torch tensors pass through it without copies."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ptq4dm.errors import BackendError, MissingDependencyError

if TYPE_CHECKING:
    import openvino as ov

INSTALL = "openvino is not installed: pip install 'ptq4dm[openvino]'"


def why_unavailable() -> str | None:
    """None where OpenVINO can be imported, else the line that says how to install it."""
    try:
        import openvino  # noqa: F401
    except ImportError:
        return INSTALL
    return None


@cache
def core() -> "ov.Core":
    """The one OpenVINO runtime of this process. Raises MissingDependencyError without openvino."""
    if why_unavailable():
        raise MissingDependencyError(INSTALL)
    import openvino

    return openvino.Core()


def compile_model(model: "ov.Model", streams: int = 1) -> "ov.CompiledModel":
    """Compile for the CPU: as many threads as torch uses, shared by `streams`; float32 where it is not INT8.

    Left to itself OpenVINO takes bfloat16 for the float part on processors that have it.
    """
    options = {
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "NUM_STREAMS": streams,
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    try:
        return core().compile_model(model, "CPU", options)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[-200:]
        raise BackendError(f"OpenVINO cannot compile this network (... {reason}): use backend='simulated'") from error


def processor() -> str:
    """The processor's name, for messages."""
    return str(core().get_property("CPU", "FULL_DEVICE_NAME"))


def runner(compiled: "ov.CompiledModel") -> Callable[[tuple[Tensor, ...]], list[Tensor]]:
    """A function from input tensors, in order, to output tensors. Inputs are shared; outputs are fresh memory."""
    request = compiled.create_infer_request()

    def run(tensors: tuple[Tensor, ...]) -> list[Tensor]:
        feeds: list[Any] = [tensor.contiguous().numpy() for tensor in tensors]
        results = request.infer(feeds, share_inputs=True, share_outputs=False)
        return [torch.from_numpy(results[index]) for index in range(len(compiled.outputs))]

    return run
