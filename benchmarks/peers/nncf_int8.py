"""NNCF: static INT8 of the OpenVINO graph."""

from pathlib import Path
from typing import Any

from torch import Tensor

from peers import in_openvino
from peers.peer import Deployed, Peer, Simulation, Subject

GRAPH = "int8.xml"
HOW = "the same graph on OpenVINO without its INT8 transformations: FakeQuantize and float kernels"


def ship_default(subject: Subject, folder: Path) -> None:
    """nncf.quantize as it comes: for a network that it knows nothing about, the preset performance (symmetric)."""
    quantize_graph(subject, folder)


def ship_mixed(subject: Subject, folder: Path) -> None:
    """nncf.quantize with the preset that it recommends where activations are not ReLU (asymmetric activations)."""
    import nncf

    quantize_graph(subject, folder, preset=nncf.QuantizationPreset.MIXED, subset_size=len(subject.samples))


def quantize_graph(subject: Subject, folder: Path, **options: Any) -> None:
    """The quantized graph as OpenVINO saves it. Overflow: by default NNCF halves the range of the first convolutions
    only."""
    import nncf
    import openvino

    samples = [(x_t.numpy(), timestep.numpy()) for x_t, timestep in subject.calls(1)]
    quantized = nncf.quantize(in_openvino.float_graph(subject), nncf.Dataset(samples, list), **options)
    openvino.save_model(quantized, str(folder / GRAPH))


def deploy(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """The graph as OpenVINO runs it."""
    return in_openvino.deployed(subject, folder / GRAPH, x_t, timestep)


def simulate(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """The graph in float."""
    return in_openvino.simulated(subject, folder / GRAPH)


TITLE, PACKAGES, SIMULATION = "NNCF / OpenVINO", ("nncf", "openvino"), Simulation(HOW, simulate)
DEFAULT = Peer(TITLE, "nncf.quantize, defaults", PACKAGES, ship_default, deploy, SIMULATION, stock_openvino=True)
MIXED = Peer(
    TITLE,
    "nncf.quantize, preset mixed, fast bias correction",
    PACKAGES,
    ship_mixed,
    deploy,
    SIMULATION,
    stock_openvino=True,
)
