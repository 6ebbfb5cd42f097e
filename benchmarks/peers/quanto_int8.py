"""optimum-quanto: INT8 weights and activations, calibrated by its own running absolute maxima."""

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from peers import in_torch
from peers.peer import Deployed, Peer, Subject

WEIGHTS, MAP = "model.safetensors", "quantization_map.json"
BATCH = 16


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


def deploy(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """The network requantized from its files."""
    from optimum.quanto import requantize

    network = in_torch.float_copy(subject.network)
    requantize(network, load_file(folder / WEIGHTS), json.loads((folder / MAP).read_text()), torch.device("cpu"))
    return in_torch.deployed(network.eval(), x_t, timestep, subject.macs)


PEER = Peer("optimum-quanto", "weights and activations qint8, Calibration()", ("optimum.quanto",), ship, deploy)
