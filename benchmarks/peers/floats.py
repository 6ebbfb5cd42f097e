"""The float network: eager PyTorch as diffusers runs it, compiled by torch, and on OpenVINO."""

from pathlib import Path

import torch
from torch import Tensor

from peers import in_openvino, in_torch
from peers.peer import Deployed, Peer, Subject

GRAPH = "float.xml"


def ship_torch(subject: Subject, folder: Path) -> None:
    """The network as diffusers saves it."""
    subject.network.save_pretrained(folder)  # type: ignore[operator]  # diffusers networks


def deploy_eager(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """The network itself."""
    return in_torch.deployed(subject.network, x_t, timestep, subject.macs)


def deploy_compiled(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """The network under torch.compile."""
    return in_torch.deployed(torch.compile(subject.network), x_t, timestep, subject.macs)  # type: ignore[arg-type]


def ship_openvino(subject: Subject, folder: Path) -> None:
    """The converted graph in float32."""
    import openvino

    openvino.save_model(in_openvino.float_graph(subject), str(folder / GRAPH), compress_to_fp16=False)


def deploy_openvino(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """The graph as OpenVINO runs it."""
    return in_openvino.deployed(subject, folder / GRAPH, x_t, timestep)


EAGER = Peer("float, PyTorch eager", "as diffusers runs it", (), ship_torch, deploy_eager, float=True)
COMPILED = Peer("float, torch.compile", "default mode", (), ship_torch, deploy_compiled, float=True, slow_start=True)
OPENVINO = Peer(
    "float, OpenVINO",
    "converted from PyTorch, FP32",
    ("openvino",),
    ship_openvino,
    deploy_openvino,
    stock_openvino=True,
    float=True,
)
