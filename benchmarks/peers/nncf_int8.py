"""NNCF: static INT8 of the OpenVINO graph."""

from pathlib import Path

from torch import Tensor

from peers import in_openvino
from peers.peer import Deployed, Peer, Subject

GRAPH = "int8.xml"


def ship(subject: Subject, folder: Path) -> None:
    """nncf.quantize with the mixed preset (asymmetric activations), which it recommends where activations are not ReLU;
    the graph as OpenVINO saves it. Overflow: by default NNCF halves the range of the first convolutions only."""
    import nncf
    import openvino

    samples = [(x_t.numpy(), timestep.numpy()) for x_t, timestep in subject.calls(1)]
    quantized = nncf.quantize(
        in_openvino.float_graph(subject),
        nncf.Dataset(samples, list),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(samples),
    )
    openvino.save_model(quantized, str(folder / GRAPH))


def deploy(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """The graph as OpenVINO runs it."""
    return in_openvino.deployed(subject, folder / GRAPH, x_t, timestep)


PEER = Peer(
    "NNCF / OpenVINO",
    "nncf.quantize, preset mixed, fast bias correction",
    ("nncf", "openvino"),
    ship,
    deploy,
    stock_openvino=True,
)
