"""Whether ONNX Runtime is exact on this processor, shown on the artifact's own layers before they are used."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ptq4dm.backends.cpu.binding import bind
from ptq4dm.backends.cpu.onnxruntime.probes import Probe, probes_of
from ptq4dm.backends.cpu.onnxruntime.session import open_session, runner
from ptq4dm.errors import BackendError
from ptq4dm.export.onnx_qdq import write_qdq
from ptq4dm.pipelines.denoiser import Call

Run = Callable[[Sequence[Probe]], list[Tensor]]
"""Runs every probe's layer on its input, on an engine."""

UNFUSED = ("MatMulAddFusion",)
"""ONNX Runtime's optimizers that would turn an INT8 matrix product with a bias into a float Gemm."""


class SideBySide(nn.Module):
    """Layers that stand beside one another, each with an input and an output of its own."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """One output a layer."""
        return [layer(x) for layer, x in zip(self.layers, xs, strict=True)]


def check_exact(network: nn.Module, names: Sequence[str], run: Run | None = None) -> None:
    """Run the named layers on probes. Raises BackendError if one is off by more than rounding, with the way out."""
    probes = [probe for name in names for probe in probes_of(name, network.get_submodule(name))]
    if not probes:
        return
    found = (run or run_probes)(probes)
    off = [probe.steps_off(output) for probe, output in zip(probes, found, strict=True)]
    worst = max(range(len(off)), key=off.__getitem__)
    wrong = {probe.name for probe, steps in zip(probes, off, strict=True) if steps > 1}
    if wrong:
        raise BackendError(
            f"onnxruntime is not exact on this processor: {len(wrong)} of {len(names)} layers differ from the integer "
            f"result, the worst ({probes[worst].name}) by {off[worst]:.0f} times what rounding allows. Its INT8 sums "
            "saturate: quantize again with portable = true, or use backend='simulated'"
        )


@torch.no_grad()
def run_probes(probes: Sequence[Probe]) -> list[Tensor]:
    """The probes on ONNX Runtime, in one graph, optimized as the network is."""
    network = SideBySide([probe.layer for probe in probes])
    bound = bind(network, Call(([probe.x for probe in probes],)))
    with tempfile.TemporaryDirectory() as folder:
        graph = write_qdq(network, bound, Path(folder) / "probes.onnx", plain=True)
        session = open_session(graph.path, without=UNFUSED)
    return runner(session, graph)(bound.tensors)
