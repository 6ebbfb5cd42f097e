"""The OpenVINO backend: INT8 convolutions and linears with float outputs, on a CPU."""

from typing import TYPE_CHECKING

from torch import nn

from ptq4dm.backends.cpu.binding import BoundCall
from ptq4dm.backends.cpu.engine import Compiled, Engine, ExecutedLayer, warn_of_float
from ptq4dm.backends.cpu.openvino.batches import BatchRunner, shapes_of
from ptq4dm.backends.cpu.openvino.engine import why_unavailable
from ptq4dm.backends.cpu.openvino.executed import executed_layers
from ptq4dm.backends.cpu.openvino.lower import check_expressible, lower, quantized_layers
from ptq4dm.backends.cpu.openvino.self_check import self_check
from ptq4dm.backends.stand_in import stand_in
from ptq4dm.errors import MissingDependencyError
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.time_bands import each_band

if TYPE_CHECKING:
    import openvino as ov


class OpenVINOBackend:
    """Runs quantized networks on OpenVINO; refuses where it would not be exact."""

    name = "openvino"
    arithmetic = "float-out"
    device = "cpu"

    def unavailable(self) -> str | None:
        """Why OpenVINO cannot be used, with the pip line; None if it can."""
        return why_unavailable()

    def prepare(self, network: nn.Module, example: Call | None) -> nn.Module:
        """`network` on OpenVINO, with the same signature and a dynamic batch.

        Raises BackendError if it cannot be expressed or is not exact here, MissingDependencyError without openvino.
        """
        reason = self.unavailable()
        if reason:
            raise MissingDependencyError(reason)
        check_expressible(network)
        for _ in each_band(network):
            self_check(quantized_layers(network))
        return stand_in(network, Engine(network, example, compile_graph))


def compile_graph(network: nn.Module, bound: BoundCall) -> Compiled:
    """One INT8 graph for calls like `bound`, with what the engine really runs for each quantized layer, whatever the
    batch size that it is compiled for."""
    lowered, layers = lower(network, bound), list(quantized_layers(network))
    seen: list[tuple[ExecutedLayer, ...]] = []

    def look(compiled: "ov.CompiledModel") -> None:
        seen.append(executed_layers(compiled, layers))
        warn_of_float("OpenVINO", seen[-1])

    run = BatchRunner(lowered.model, shapes_of(bound.tensors), lowered.independent, look)
    return Compiled(run, lowered.output_spec, seen, lowered.independent)
