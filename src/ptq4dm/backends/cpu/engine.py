"""Engine: runs the calls of a network on compiled graphs, one for each structure of call that occurs."""

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ptq4dm.backends.cpu.binding import BoundCall, Traceable, answer, bind
from ptq4dm.backends.cpu.state import settings_of
from ptq4dm.errors import BackendError, BackendWarning
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.time_bands import TimeBands, at_band, bands_of, each_band


@dataclass(frozen=True)
class ExecutedLayer:
    """What an engine really ran for one quantized layer: its own node type, and whether that multiplies in INT8."""

    layer: str
    type: str
    int8: bool
    primitive: str = ""
    precision: str = ""


@dataclass(frozen=True)
class Compiled:
    """A graph on an engine. run: the bound tensors in, the flat outputs out; seen: what runs for each layer, in each
    form of the graph that was compiled so far, as for several batch sizes; independent: whether each sample's answer is
    known to depend on its own inputs only."""

    run: Callable[[tuple[Tensor, ...]], list[Tensor]]
    output_spec: pytree.TreeSpec
    seen: Sequence[Sequence[ExecutedLayer]] = ()
    independent: bool = False

    @property
    def executed(self) -> tuple[ExecutedLayer, ...]:
        """What runs for each layer, as `worst` has it of all forms."""
        return tuple(worst(runs) for runs in zip(*self.seen, strict=True))


class Engine:
    """Runs a network's calls; a call of another structure or picture size compiles a graph of its own, and so does a
    call after the network was told something in place (`settings_of`). A network whose scales depend on the time-step
    has a graph for each band of them; samples of one call in several bands run on several.

    Holds `network` only to compile from; `executed` tells what really ran in INT8. On the CPU, in float32.
    """

    def __init__(self, network: nn.Module, example: Call | None, compile: Callable[[nn.Module, BoundCall], Compiled]):
        self.network = network
        self.compile_graph = compile
        self.graphs: dict[Hashable, Compiled] = {}
        if example is not None:
            for _ in each_band(network):
                self.graph_of(bind(network, example))

    def graph_of(self, bound: BoundCall) -> Compiled:
        """The graph for calls like `bound` of the network as it is set, compiled at the first. Raises BackendError."""
        key = (bound.key, settings_of(self.network))
        if key not in self.graphs:
            self.graphs[key] = self.compile_graph(self.network, bound)
        return self.graphs[key]

    @property
    def executed(self) -> tuple[ExecutedLayer, ...]:
        """What the engine really runs for each quantized layer, as `worst` has it of all graphs so far; () before the
        first."""
        return tuple(worst(runs) for runs in zip(*(graph.executed for graph in self.graphs.values()), strict=True))

    def answer_of_none(self, bound: BoundCall) -> Any:
        """The answer to a batch of no samples, which no engine takes: empty, in the shapes that torch gives.

        Raises BackendError where torch does not take it either (the attention of diffusers does not).
        """
        traceable = Traceable(self.network, bound)
        try:
            outputs = list(traceable(*bound.tensors))
        except RuntimeError as error:
            kind = type(self.network).__name__
            raise BackendError(f"{kind} was called with a batch of 0 samples ({error}): give at least one") from error
        assert traceable.output_spec is not None  # the call above set it
        return answer(outputs, traceable.output_spec, bound.structured)

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The network's answer to this call, in float32 on the CPU. Raises TypeError for a call that does not fit."""
        bound = bind(self.network, Call(args, kwargs))
        if any(tensor.dim() and not len(tensor) for tensor in bound.tensors):
            return self.answer_of_none(bound)
        bands = bands_of(self.network)
        if bands is not None:
            return self.answer_by_band(bound, bands, bands.bands_of(self.network, args, kwargs))
        graph = self.graph_of(bound)
        return answer(graph.run(bound.tensors), graph.output_spec, bound.structured)

    def answer_by_band(self, bound: BoundCall, bands: TimeBands, index: Tensor) -> Any:
        """The answer to a call whose samples are in the bands `index`, () or (samples,): a run for each band.

        Raises BackendError for several bands where the network mixes samples.
        """
        present = sorted(set(index.reshape(-1).tolist()))
        parts = []
        for band in present:
            with at_band(bands, band):
                graph = self.graph_of(bound)
            if len(present) == 1:
                return answer(graph.run(bound.tensors), graph.output_spec, bound.structured)
            sizes = {len(tensor) for tensor in bound.tensors if tensor.dim()}
            if not graph.independent or sizes != {len(index)}:
                raise BackendError(
                    f"{type(self.network).__name__} was called with time-steps in {len(present)} bands of its scales, "
                    "and mixes the samples of a call: give all of them one time-step, or use backend='simulated'"
                )
            rows = (index == band).nonzero().squeeze(1)
            own = tuple(tensor[rows] if tensor.dim() else tensor for tensor in bound.tensors)
            parts.append((rows, graph.run(own)))
        order = torch.cat([rows for rows, _ in parts]).argsort()
        outputs = [torch.cat(column)[order] for column in zip(*(part for _, part in parts), strict=True)]
        return answer(outputs, graph.output_spec, bound.structured)


def worst(runs: Sequence[ExecutedLayer]) -> ExecutedLayer:
    """What to report for a layer that runs several times: one that is not INT8 if there is any."""
    return min(runs, key=lambda run: run.int8)


def warn_of_float(engine: str, executed: Sequence[ExecutedLayer]) -> None:
    """Warn by name of the quantized layers that an engine does not show as run in INT8."""
    elsewhere = [layer.layer for layer in executed if not layer.int8]
    if elsewhere:
        warnings.warn(
            f"{engine} does not show {len(elsewhere)} of {len(executed)} quantized layers as run in INT8 "
            f"({', '.join(elsewhere[:3])}): they may run in float, on the same rounded numbers",
            BackendWarning,
            stacklevel=3,
        )
