"""What a tool is to the comparison: it ships a network as files, and runs what it shipped, deployed or simulated."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.errors import EvaluationError, MissingDependencyError
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.quantization.macs import count_macs

PIP_LINE = "pip install -c constraints.txt -c benchmarks/peers/constraints.txt -e '.[peers]'"

Run = Callable[[Tensor, Tensor], Tensor]
"""One call of the network: x_t (batch, channels, height, width) and a 0-d time-step in, its output out."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The network that all tools get, the samples they may calibrate on, and whether they tune for VNNI."""

    pipeline: Pipeline
    samples: CalibrationSet
    vnni: bool

    @property
    def network(self) -> nn.Module:
        """The float network; tools that change a network take a copy."""
        return self.pipeline.denoiser

    def calls(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The samples as calls: x_t (batch, ...) and (batch,) time-steps; of one sample, a 0-d time-step."""
        for call, timesteps in self.samples.calls(batch_size):
            yield call.args[0], timesteps[0] if batch_size == 1 else timesteps

    @cached_property
    def macs(self) -> dict[str, int]:
        """Multiply-adds a sample of every convolution and linear layer of the network."""
        return count_macs(self.network, Call(next(self.calls(1))))


@dataclass(frozen=True, eq=False)
class Deployed:
    """A network as its tool runs it. int8_share: of the multiply-adds of convolutions and linears, what the runtime
    itself shows as INT8; executed: the kernels seen, with how often."""

    run: Run
    int8_share: float
    executed: dict[str, int]


Deploy = Callable[[Subject, Path, Tensor, Tensor], Deployed]
"""Runs the files in a folder for calls like the given x_t and time-step."""


@dataclass(frozen=True)
class Simulation:
    """A tool's own ranges and rounding computed in float, so that its scheme is judged apart from its engine.

    how: in words. deploy: runs the same files; what it returns shows nothing in INT8.
    """

    how: str
    deploy: Deploy


@dataclass(frozen=True)
class Peer:
    """One tool with its settings.

    title, settings: as the table says them. packages: what has to be installed. ship: quantizes and writes the
    network's files into an empty folder. deploy: runs those files; simulation: computes them in float.
    part: the subfolder that holds the network, where more is written. tuned: its settings differ where the
    processor has no VNNI. stock_openvino: it runs OpenVINO's own float graph. float: quantizes nothing.
    slow_start: takes a minute or more before its first call, so a quick try leaves it out.
    """

    title: str
    settings: str
    packages: tuple[str, ...]
    ship: Callable[[Subject, Path], None]
    deploy: Deploy
    simulation: Simulation | None = None
    part: str = ""
    tuned: bool = False
    stock_openvino: bool = False
    float: bool = False
    slow_start: bool = False


def require(peer: Peer) -> None:
    """Raise MissingDependencyError with the pip line unless the tool's packages can be imported."""
    for package in peer.packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingDependencyError(f"{peer.title} needs {package} ({error}): {PIP_LINE}") from error


def share_of(layers: set[str], macs: dict[str, int]) -> float:
    """The share of all multiply-adds that `layers` make."""
    return sum(count for name, count in macs.items() if name in layers) / sum(macs.values())


def share_shown(layers: dict[str, bool], macs: dict[str, int]) -> float:
    """The share in INT8 by what a runtime shows: for each layer whether it ran in INT8.

    Raises EvaluationError where a layer that multiplies is not shown at all: its share cannot be told then.
    """
    missing = [name for name in macs if name not in layers]
    if missing:
        raise EvaluationError(f"the runtime shows no node for {len(missing)} of {len(macs)} layers ({missing[0]})")
    return share_of({name for name, int8 in layers.items() if int8}, macs)


def shipped_bytes(folder: Path) -> int:
    """Bytes of all files that a tool wrote."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def without_gradients(run: Run) -> Run:
    """The call without autograd."""

    def call(x_t: Tensor, timestep: Tensor) -> Tensor:
        with torch.no_grad():
            return run(x_t, timestep)

    return call
