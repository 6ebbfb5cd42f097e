"""torchao: INT8 weights, activations rounded anew in each call; linear layers only."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from peers import in_torch
from peers.peer import Deployed, Peer, Subject

WEIGHTS = "model.pt"


def ship(subject: Subject, folder: Path) -> None:
    """quantize_ in place of a copy; its state as its documentation saves it."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    network = copy.deepcopy(subject.network)
    quantize_(network, Int8DynamicActivationInt8WeightConfig(reduce_range=not subject.vnni))
    torch.save(network.state_dict(), folder / WEIGHTS)


def loaded(subject: Subject, folder: Path) -> nn.Module:
    """The network filled with its saved state."""
    network = in_torch.float_copy(subject.network)
    network.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True), assign=True)
    return network.requires_grad_(False)


def deploy(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """The network in eager mode."""
    return in_torch.deployed(loaded(subject, folder), x_t, timestep, subject.macs)


def deploy_compiled(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """The network under torch.compile, as torchao recommends."""
    network = torch.compile(loaded(subject, folder))
    return in_torch.deployed(network, x_t, timestep, subject.macs)  # type: ignore[arg-type]


SETTINGS = "Int8DynamicActivationInt8WeightConfig"
PEER = Peer("torchao", f"{SETTINGS}, eager", ("torchao",), ship, deploy, tuned=True)
COMPILED = Peer(
    "torchao", f"{SETTINGS}, torch.compile", ("torchao",), ship, deploy_compiled, tuned=True, slow_start=True
)
