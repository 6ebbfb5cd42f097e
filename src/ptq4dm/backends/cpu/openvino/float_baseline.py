"""The float network on OpenVINO: the baseline that INT8 speed is compared with."""

from torch import nn

from ptq4dm.backends.cpu.binding import BoundCall
from ptq4dm.backends.cpu.engine import Compiled, Engine
from ptq4dm.backends.cpu.openvino.batches import BatchRunner, shapes_of
from ptq4dm.backends.cpu.openvino.engine import why_unavailable
from ptq4dm.backends.cpu.openvino.lower import lower
from ptq4dm.backends.stand_in import stand_in
from ptq4dm.errors import MissingDependencyError
from ptq4dm.pipelines.denoiser import Call


def compile_float(network: nn.Module, example: Call, friendly: bool = False) -> nn.Module:
    """`network` in FP32 on OpenVINO, with the same call signature and a dynamic batch.

    friendly: with the rewritten float parts of the INT8 graph (`friendly_forwards`). Raises BackendError if the network
    cannot be expressed, MissingDependencyError without openvino.
    """
    reason = why_unavailable()
    if reason:
        raise MissingDependencyError(reason)

    def compile_graph(source: nn.Module, bound: BoundCall) -> Compiled:
        lowered = lower(source, bound, friendly)
        run = BatchRunner(lowered.model, shapes_of(bound.tensors), lowered.independent)
        return Compiled(run, lowered.output_spec)

    return stand_in(network, Engine(network, example, compile_graph))
