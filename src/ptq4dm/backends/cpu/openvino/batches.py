"""One graph, any batch size, at the speed of a fixed one.

OpenVINO runs a graph of fixed shapes about a fifth faster than the same graph with a dynamic batch (it plans memory,
concatenation in place and kernels ahead). So the first few batch sizes that occur are compiled on their own, each
when it first occurs; any further size runs on the dynamic graph.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from ptq4dm.backends.cpu.openvino.engine import compile_model, runner
from ptq4dm.errors import BackendError

if TYPE_CHECKING:
    import openvino as ov

FIXED_SIZES = 4
"""How many batch sizes get a graph of their own."""

Run = Callable[[tuple[Tensor, ...]], list[Tensor]]
Shapes = tuple[tuple[int, ...], ...]


class BatchRunner:
    """Runs a graph with a dynamic batch; compiles it for the sizes that occur. `first` is compiled for `shapes`."""

    def __init__(self, model: "ov.Model", shapes: Shapes):
        self.model = model
        self.dynamic: Run | None = None
        self.fixed: dict[Shapes, Run] = {}
        try:
            self.first = compile_model(fixed(model, shapes))
        except BackendError:  # some graphs compile only with a dynamic batch (Stable Video Diffusion's, 2026.4)
            self.first = compile_model(model)
            self.dynamic = runner(self.first)
        else:
            self.fixed[shapes] = runner(self.first)

    def __call__(self, tensors: tuple[Tensor, ...]) -> list[Tensor]:
        """The graph's outputs for `tensors`."""
        return self.graph_for(shapes_of(tensors))(tensors)

    def graph_for(self, shapes: Shapes) -> Run:
        """The compiled graph for inputs of these shapes."""
        if shapes in self.fixed:
            return self.fixed[shapes]
        if self.dynamic is None and len(self.fixed) < FIXED_SIZES:
            self.fixed[shapes] = runner(compile_model(fixed(self.model, shapes)))
            return self.fixed[shapes]
        if self.dynamic is None:
            self.dynamic = runner(compile_model(self.model))
        return self.dynamic


def shapes_of(tensors: tuple[Tensor, ...]) -> Shapes:
    """The shapes of the graph's inputs, in order."""
    return tuple(tuple(tensor.shape) for tensor in tensors)


def fixed(model: "ov.Model", shapes: Shapes) -> "ov.Model":
    """A copy of the graph for inputs of these shapes only."""
    import openvino as ov

    copy = model.clone()
    copy.reshape({index: ov.PartialShape(list(shape)) for index, shape in enumerate(shapes)})
    return copy
