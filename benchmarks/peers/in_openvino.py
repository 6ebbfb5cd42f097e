"""Graphs of OpenVINO's own: how they are made of a torch network, run, and what of them is run in INT8."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peers.peer import Deployed, Run, Subject, share_shown
from ptq4dm.backends.cpu.binding import bind
from ptq4dm.backends.cpu.openvino.batches import BatchRunner, shapes_of
from ptq4dm.backends.cpu.openvino.engine import core, runner
from ptq4dm.backends.cpu.openvino.executed import MULTIPLYING, executed_layer, text
from ptq4dm.backends.cpu.openvino.lower import lower
from ptq4dm.pipelines.denoiser import Call

LAYERS = ("aten::_convolution", "aten::linear")
"""The operations of layers, as the converter names them."""
ROOT = "__module.network."
IN_FLOAT = {
    "LP_TRANSFORMS_MODE": False,
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    "INFERENCE_PRECISION_HINT": "f32",
}
"""FakeQuantize is computed as written, and its neighbours in float32: nothing is turned into INT8 kernels."""


def float_graph(subject: Subject) -> Any:
    """The float network as OpenVINO's converter gives it, with a dynamic batch."""
    return lower(subject.network, bind(subject.network, Call(next(subject.calls(1)))), friendly=False).model


def deployed(subject: Subject, path: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """A saved graph, compiled for the shapes of this call: lowest latency, float32 where it is not INT8."""
    model = core().read_model(str(path))
    batches = BatchRunner(model, shapes_of((x_t, timestep)))
    share = share_shown(multiplying_layers(batches.first), subject.macs)
    return Deployed(run_of(batches), share, kernels(batches.first))


def simulated(subject: Subject, path: Path) -> Deployed:
    """A saved graph in float, for any batch."""
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core().compile_model(core().read_model(str(path)), "CPU", {**IN_FLOAT, **threads})
    share = share_shown(multiplying_layers(compiled), subject.macs)
    return Deployed(run_of(runner(compiled)), share, kernels(compiled))


def run_of(outputs: Callable[[tuple[Tensor, ...]], list[Tensor]]) -> Run:
    """The graph as a call of the network."""

    def run(x_t: Tensor, timestep: Tensor) -> Tensor:
        return outputs((x_t, timestep.to(torch.int64)))[0]

    return run


def multiplying_layers(compiled: Any) -> dict[str, bool]:
    """For each layer of the torch network that the runtime multiplies for: whether all its nodes are INT8."""
    found: dict[str, bool] = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        if text(info, "layerType") in MULTIPLYING:
            name = layer_of(text(info, "originalLayersNames"))
            if name is not None:
                found[name] = found.get(name, True) and executed_layer(name, info).int8
    return found


def kernels(compiled: Any) -> dict[str, int]:
    """How often each multiplying kernel stands in the compiled graph."""
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    seen = [text(info, "primitiveType") for info in infos if text(info, "layerType") in MULTIPLYING]
    return dict(Counter(seen))


def layer_of(origins: str) -> str | None:
    """The torch layer that a multiplying node came from, by the names of all that was fused into it, its own first:
    "__module.network.conv_in/aten::_convolution/Convolution,..." is conv_in. None for products of activations."""
    for origin in origins.split(","):
        layer, _, operation = origin.partition("/")
        if layer.startswith(ROOT) and operation.startswith(LAYERS):
            return layer.removeprefix(ROOT)
    return None
