"""One graph, any batch size, at the speed of a fixed one.

OpenVINO runs a graph of fixed shapes about a fifth faster than the same graph with a dynamic batch (it plans memory,
concatenation in place and kernels ahead). So the first few batch sizes that occur are compiled on their own, each
when it first occurs; any further size runs on the dynamic graph.

Of a batch whose samples do not depend on each other the two halves run at once, each on half of the threads: a thread
then never waits for the others at the end of every layer, and INT8 layers, which are short, gain most by that.
"""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ptq4dm.backends.cpu.openvino.engine import compile_model, runner
from ptq4dm.errors import BackendError

if TYPE_CHECKING:
    import openvino as ov

FIXED_SIZES = 4
"""How many batch sizes get a graph of their own."""
STREAMS = 2
"""How many parts of a batch run at once."""

Run = Callable[[tuple[Tensor, ...]], list[Tensor]]
Shapes = tuple[tuple[int, ...], ...]


class BatchRunner:
    """Runs a graph with a dynamic batch; compiles it for the sizes that occur. `first` is compiled for `shapes`.

    independent: whether each sample's answer depends on its own inputs only, so that a batch may run in parts. look:
    called with each graph that is compiled.
    """

    def __init__(
        self,
        model: "ov.Model",
        shapes: Shapes,
        independent: bool = False,
        look: Callable[["ov.CompiledModel"], None] = lambda compiled: None,
    ):
        self.model, self.independent, self.look = model, independent, look
        self.dynamic: Run | None = None
        self.fixed: dict[Shapes, Run] = {}
        try:
            self.first, self.fixed[shapes] = self.compiled(shapes)
        except BackendError:  # some graphs compile only with a dynamic batch (Stable Video Diffusion's, 2026.4)
            self.first = self.seen(compile_model(model))
            self.dynamic = runner(self.first)

    def __call__(self, tensors: tuple[Tensor, ...]) -> list[Tensor]:
        """The graph's outputs for `tensors`."""
        return self.graph_for(shapes_of(tensors))(tensors)

    def graph_for(self, shapes: Shapes) -> Run:
        """The compiled graph for inputs of these shapes."""
        if shapes in self.fixed:
            return self.fixed[shapes]
        if self.dynamic is None and len(self.fixed) < FIXED_SIZES:
            with suppress(BackendError):  # as above
                _, self.fixed[shapes] = self.compiled(shapes)
                return self.fixed[shapes]
        if self.dynamic is None:
            self.dynamic = runner(self.seen(compile_model(self.model)))
        return self.dynamic

    def compiled(self, shapes: Shapes) -> tuple["ov.CompiledModel", Run]:
        """A graph for inputs of these shapes only, and how to run it: whole, or its parts at once."""
        parts = parts_of(shapes) if self.independent else 1
        part = tuple((shape[0] // parts, *shape[1:]) if shape else shape for shape in shapes)
        compiled = self.seen(compile_model(fixed(self.model, part), parts))
        return compiled, runner(compiled) if parts == 1 else in_parts(compiled, parts)

    def seen(self, compiled: "ov.CompiledModel") -> "ov.CompiledModel":
        """The graph itself, looked at."""
        self.look(compiled)
        return compiled


def parts_of(shapes: Shapes) -> int:
    """Into how many parts a batch of these inputs is cut: `STREAMS` if it can be and there are threads for them."""
    sizes = {shape[0] for shape in shapes if shape}
    fits = len(sizes) == 1 and not min(sizes) % STREAMS and torch.get_num_threads() >= STREAMS
    return STREAMS if fits else 1


def in_parts(compiled: "ov.CompiledModel", parts: int) -> Run:
    """A function like `runner`'s that runs equal parts of the batch at once, each on a stream of its own."""
    requests = [compiled.create_infer_request() for _ in range(parts)]

    def run(tensors: tuple[Tensor, ...]) -> list[Tensor]:
        cut = [tensor.contiguous().chunk(parts) if tensor.dim() else (tensor,) * parts for tensor in tensors]
        feeds = [[part.numpy() for part in own] for own in zip(*cut, strict=True)]  # kept until all have run
        with ExitStack() as started:  # whatever happens, none is left running
            for request, feed in zip(requests, feeds, strict=True):
                request.start_async(feed, share_inputs=True)
                started.callback(request.wait)
        outputs = ([torch.from_numpy(request.get_output_tensor(index).data) for request in requests]
                   for index in range(len(compiled.outputs)))  # fmt: skip
        return [torch.cat(own) for own in outputs]

    return run


def shapes_of(tensors: tuple[Tensor, ...]) -> Shapes:
    """The shapes of the graph's inputs, in order."""
    return tuple(tuple(tensor.shape) for tensor in tensors)


def fixed(model: "ov.Model", shapes: Shapes) -> "ov.Model":
    """A copy of the graph for inputs of these shapes only."""
    import openvino as ov

    copy = model.clone()
    copy.reshape({index: ov.PartialShape(list(shape)) for index, shape in enumerate(shapes)})
    return copy
