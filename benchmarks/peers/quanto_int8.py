"""optimum-quanto: INT8 weights and activations, calibrated by its own running absolute maxima."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from peers import in_torch
from peers.peer import Deployed, Peer, Simulation, Subject

WEIGHTS, MAP = "model.safetensors", "quantization_map.json"
BATCH = 16
HOW = "the same network, linear layers in float too, as optimum-quanto multiplies where it has no INT8 kernel"


@torch.no_grad()
def ship(subject: Subject, folder: Path) -> None:
    """quantize, calibrate, freeze; state and quantization map as its documentation saves them."""
    from optimum.quanto import Calibration, freeze, qint8, quantization_map, quantize

    network = copy.deepcopy(subject.network)
    quantize(network, weights=qint8, activations=qint8)
    with Calibration():
        for x_t, timesteps in subject.calls(BATCH):
            network(x_t, timesteps)
    freeze(network)
    save_file(network.state_dict(), folder / WEIGHTS)
    (folder / MAP).write_text(json.dumps(quantization_map(network)))


def loaded(subject: Subject, folder: Path) -> nn.Module:
    """The network requantized from its files."""
    from optimum.quanto import requantize

    network = in_torch.float_copy(subject.network)
    requantize(network, load_file(folder / WEIGHTS), json.loads((folder / MAP).read_text()), torch.device("cpu"))
    return network.eval()


def deploy(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """The network as it is: convolutions are computed in float already."""
    return in_torch.deployed(loaded(subject, folder), x_t, timestep, subject.macs)


def simulate(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """The network with its INT8 products in float."""
    network = loaded(subject, folder)

    def call(x_t: Tensor, timestep: Tensor) -> Tensor:
        with FloatProducts():
            return network(x_t, timestep)

    return in_torch.deployed(call, x_t, timestep, subject.macs)


class FloatProducts(TorchDispatchMode):
    """Under it optimum-quanto multiplies by its own float formula instead of in INT8."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from optimum.quanto.library.qbytes_mm import qbytes_mm

        if func is torch.ops.quanto.qbytes_mm.default:
            return qbytes_mm(*args)
        return func(*args, **(kwargs or {}))


PEER = Peer(
    "optimum-quanto",
    "weights and activations qint8, Calibration()",
    ("optimum.quanto",),
    ship,
    deploy,
    Simulation(HOW, simulate),
)
