"""Ours: the default recipe and the fast one on the same samples, deployed on OpenVINO."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

import ptq4dm
from peers import in_torch
from peers.peer import Deployed, Peer, Simulation, Subject, share_of, without_gradients
from ptq4dm.pipelines.denoiser import output_tensor


def ship(recipe: str, subject: Subject, folder: Path) -> None:
    """The artifact: a pipeline's folder, of which the network's own part is what the other tools ship too."""
    ptq4dm.quantize(subject.pipeline, recipe, calibration_set=subject.samples).save(folder)


def deploy(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """The artifact on OpenVINO, self-checked."""
    module: Any = ptq4dm.load(folder).to_module("openvino")
    run = without_gradients(lambda x, t: output_tensor(module(x, t)))
    run(x_t, timestep)
    executed = module.ptq4dm_engine.executed
    layers = {layer.layer for layer in executed if layer.int8}
    return Deployed(run, share_of(layers, subject.macs), dict(Counter(layer.primitive for layer in executed)))


def simulate(subject: Subject, folder: Path, x_t: Tensor, timestep: Tensor) -> Deployed:
    """The artifact on the backend that defines its arithmetic, in torch."""
    return in_torch.deployed(ptq4dm.load(folder).to_module("simulated"), x_t, timestep, subject.macs)


def with_recipe(recipe: str) -> Peer:
    """A row of ours."""
    return Peer(
        "ptq4dm",
        f"recipe {recipe}, backend openvino",
        ("openvino",),
        partial(ship, recipe),
        deploy,
        Simulation("the same artifact, backend simulated", simulate),
        part="unet",
    )


PEER = with_recipe("w8a8")
FAST = with_recipe("w8a8-fast")
