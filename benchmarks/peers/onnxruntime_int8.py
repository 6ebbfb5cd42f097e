"""ONNX Runtime: static INT8, written as QDQ."""

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peers.peer import Deployed, Peer, Run, Simulation, Subject, share_shown
from ptq4dm.backends.cpu.binding import bind
from ptq4dm.backends.cpu.onnxruntime.executed import INT8_NODES
from ptq4dm.backends.cpu.onnxruntime.session import open_session
from ptq4dm.export.trace import trace_to_onnx
from ptq4dm.pipelines.denoiser import Call

GRAPH = "int8.onnx"
MULTIPLYING = INT8_NODES | {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
ROOT = "/network"
HOW = "the same graph, each node as written (graph optimizations off): QuantizeLinear, DequantizeLinear, float Conv"


def ship_default(subject: Subject, folder: Path) -> None:
    """quantize_static as it comes: QDQ, S8S8, min-max, per tensor."""
    quantize_graph(subject, folder)


def ship_per_channel(subject: Subject, folder: Path) -> None:
    """Weights per channel, and reduce_range without VNNI, as its documentation advises."""
    quantize_graph(subject, folder, per_channel=True, reduce_range=not subject.vnni)


def quantize_graph(subject: Subject, folder: Path, **options: Any) -> None:
    """quant_pre_process, then quantize_static."""
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as work:
        written, prepared = Path(work) / "float.onnx", Path(work) / "prepared.onnx"
        graph = trace_to_onnx(subject.network, bind(subject.network, Call(next(subject.calls(1)))), written)
        quant_pre_process(str(written), str(prepared), skip_symbolic_shape=True)  # which this graph cannot pass
        feeds = ({name: x.numpy() for name, x in zip(graph.inputs, call)} for call in subject.calls(1))
        quantize_static(str(prepared), str(folder / GRAPH), reader(feeds), **options)


def reader(feeds: Iterable[dict[str, Any]]) -> Any:
    """The samples in the form that ONNX Runtime asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:  # type: ignore[override]  # None ends the data
            return next(self.feeds, None)

    return Reader()


def deploy(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """A session on the shipped graph."""
    return opened(subject, folder, optimize=True)


def simulate(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """A session that runs each node of the shipped graph as written."""
    return opened(subject, folder, optimize=False)


def opened(subject: Subject, folder: Path, optimize: bool) -> Deployed:
    """A session; what it runs is read from the graph as ONNX Runtime rewrote it."""
    import onnx

    with tempfile.TemporaryDirectory() as work:
        executed = Path(work) / "executed.onnx"
        session = open_session(folder / GRAPH, executed, optimize)
        nodes = [(node.op_type, node.name) for node in onnx.load(str(executed)).graph.node]
    share = share_shown(multiplying_layers(nodes), subject.macs)
    kinds = Counter(kind for kind, _ in nodes if kind in MULTIPLYING)
    return Deployed(run_of(session), share, dict(kinds))


def run_of(session: Any) -> Run:
    """The session as a call of the network."""
    names = [item.name for item in session.get_inputs()]

    def run(x_t: Tensor, timestep: Tensor) -> Tensor:
        feeds = dict(zip(names, (x_t.contiguous().numpy(), timestep.to(torch.int64).numpy()), strict=True))
        return torch.from_numpy(session.run(None, feeds)[0])

    return run


def multiplying_layers(nodes: Iterable[tuple[str, str]]) -> dict[str, bool]:
    """For each scope of the torch network that multiplies, by (type, name) of the nodes: whether it does so in INT8.

    "/mid_block/resnets.0/conv1/Conv_token_737" is of mid_block.resnets.0.conv1. The products of
    attention are listed under the attention block, which is no layer.
    """
    found: dict[str, bool] = {}
    for kind, name in nodes:
        if kind in MULTIPLYING and name.startswith("/"):
            layer = name.removeprefix(ROOT).removeprefix("/").rpartition("/")[0].replace("/", ".")
            found[layer] = found.get(layer, True) and kind in INT8_NODES
    return found


TITLE, PACKAGES, SIMULATION = "ONNX Runtime", ("onnxruntime", "onnx"), Simulation(HOW, simulate)
DEFAULT = Peer(TITLE, "quantize_static, defaults", PACKAGES, ship_default, deploy, SIMULATION)
PER_CHANNEL = Peer(
    TITLE,
    "quantize_static, QDQ S8S8, per channel, reduce_range without VNNI",
    PACKAGES,
    ship_per_channel,
    deploy,
    SIMULATION,
    tuned=True,
)
