"""From the call of a network to the inputs of a compiled graph, and from the graph's outputs back to its answer.

Tensors and numbers of a call become inputs (so a time-step is never baked in); everything else (None, True, a name)
is a constant of the graph. A graph is compiled for one `key`: structure, constants, dtypes, ranks and all sizes but
the first (batch) of each tensor. A call with another key needs another graph.
"""

import inspect
import numbers
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ptq4dm.errors import BackendError
from ptq4dm.pipelines.denoiser import Call

TIME_VALUES = (0.0, 0.1, 1.0, 10.0, 100.0, 990.0)
"""What time-steps and noise levels are tried with, beside multiples of their own."""
STRUCTURED = "return_dict"
"""The argument by which diffusers networks are asked for a named output or a plain tuple."""


@dataclass(frozen=True)
class BoundCall:
    """A call taken apart. tensors: the graph's inputs, by `names`; key: what a graph for this call is fixed to;
    structured: whether a named output was asked for (diffusers' `return_dict`)."""

    tensors: tuple[Tensor, ...]
    names: tuple[str, ...]
    key: Hashable
    structured: bool
    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec

    def arguments(self, tensors: tuple[Tensor, ...]) -> dict[str, Any]:
        """The arguments by parameter name, with `tensors` in place of its own."""
        own = iter(tensors)
        leaves = [next(own) if is_input(leaf) else leaf for leaf in self.leaves]
        return pytree.tree_unflatten(leaves, self.spec)


class Traceable(nn.Module):
    """A network as exporters can trace it: tensors in, a flat tuple of tensors out; it notes the output's structure."""

    def __init__(self, network: nn.Module, bound: BoundCall):
        super().__init__()
        self.network, self.bound = network, bound
        self.output_spec: pytree.TreeSpec | None = None

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors of the network's output. Raises BackendError if it holds anything else."""
        signature = inspect.signature(self.network.forward)
        arguments = self.bound.arguments(tensors)
        if STRUCTURED in signature.parameters:
            arguments[STRUCTURED] = True
        bound = inspect.BoundArguments(signature, OrderedDict(arguments))
        leaves, self.output_spec = pytree.tree_flatten(self.network.forward(*bound.args, **bound.kwargs))
        if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
            kinds = ", ".join(sorted({type(leaf).__name__ for leaf in leaves})) or "nothing"
            raise BackendError(
                f"{type(self.network).__name__} returns {kinds}: an engine needs tensors; use 'simulated'"
            )
        return tuple(leaves)


def bind(network: nn.Module, call: Call) -> BoundCall:
    """Take a call of `network` apart. Raises TypeError, as the network would, if it does not fit its signature."""
    signature = inspect.signature(network.forward)
    try:
        arguments = dict(signature.bind(*call.args, **call.kwargs).arguments)
    except TypeError as error:
        raise TypeError(f"{type(network).__name__}.forward{signature} does not take this call: {error}") from None
    structured = True
    if STRUCTURED in signature.parameters:
        structured = bool(arguments.pop(STRUCTURED, signature.parameters[STRUCTURED].default))
    arguments = {name: arguments[name] for name in signature.parameters if name in arguments}
    paths, spec = pytree.tree_flatten_with_path(arguments)
    inputs = [(input_name(path), as_tensor(leaf)) for path, leaf in paths if is_input(leaf)]
    constants = tuple("input" if is_input(leaf) else repr(leaf) for _, leaf in paths)
    shapes = tuple((str(tensor.dtype), tuple(tensor.shape[1:]), tensor.dim()) for _, tensor in inputs)
    return BoundCall(
        tensors=tuple(tensor for _, tensor in inputs),
        names=tuple(name for name, _ in inputs),
        key=(repr(spec), constants, shapes),
        structured=structured,
        leaves=tuple(leaf for _, leaf in paths),
        spec=spec,
    )


def answer(outputs: list[Tensor], spec: pytree.TreeSpec, structured: bool) -> Any:
    """The network's answer built of the graph's outputs: as the network gives it, or the fields of that in a tuple."""
    value = pytree.tree_unflatten(outputs, spec)
    return value.to_tuple() if isinstance(value, BaseOutput) and not structured else value


def for_tracing(bound: BoundCall) -> tuple[Tensor, ...]:
    """The call's tensors with a batch of 2, where all have one batch: exporters take a size of 1 for a constant."""
    batches = {tensor.shape[0] for tensor in bound.tensors if tensor.dim() > 0}
    if len(batches) != 1 or 0 in batches:
        return bound.tensors
    return tuple(torch.cat([tensor, tensor])[:2] if tensor.dim() else tensor for tensor in bound.tensors)


@torch.no_grad()
def check_nothing_baked(
    traceable: Traceable, traced: Callable[..., Any], tensors: tuple[Tensor, ...], reads: bool
) -> None:
    """Raise BackendError unless `traced` follows the network when one of its inputs takes another value.

    A network that reads an input in Python (`.item()`, `float`, `if`) is traced with that value as a constant. reads:
    whether it was seen to take any value into Python (`reads_values`); if not it has nothing to branch on, and one
    other value of each input, for which it answers in numbers, is enough.
    """
    for index, name in enumerate(traceable.bound.names):
        for other in in_range_first(other_values(tensors[index])):
            changed = (*tensors[:index], other, *tensors[index + 1 :])
            try:
                expected = traceable(*changed)
            except (ArithmeticError, IndexError, RuntimeError, ValueError):
                continue  # the network itself does not take that value
            got = traced(*changed)
            if not all(same(a, b) for a, b in zip(got, expected, strict=True)):
                raise BackendError(
                    f"{type(traceable.network).__name__} reads {name} in Python (as with .item() or if), so a graph "
                    "would hold it fixed: compute with it as a tensor, or use backend='simulated'"
                )
            if not reads and all(bool(torch.isfinite(answer).all()) for answer in expected):
                break


@torch.no_grad()
def samples_independent(traced: Callable[..., Any], tensors: tuple[Tensor, ...]) -> bool:
    """Whether the answer to each sample of a batch of two stays as it is, to the bit, when the other's inputs change.

    Not so where a network mixes samples: attention over the frames of several, guidance computed inside.
    """
    batched = [index for index, tensor in enumerate(tensors) if tensor.dim()]
    if not batched or any(len(tensors[index]) != 2 for index in batched):
        return False
    answers = traced(*tensors)
    for kept, changed in ((0, 1), (1, 0)):
        others = list(tensors)
        for index in batched:
            others[index] = tensors[index].clone()
            others[index][changed] = another(tensors[index][changed])
        for before, after in zip(answers, traced(*others), strict=True):
            if not before.dim() or len(before) != 2 or not torch.equal(before[kept], after[kept]):
                return False
    return True


def another(row: Tensor) -> Tensor:
    """Other values of the same kind; of integers, labels and indices say, no larger ones."""
    if row.dtype == torch.bool:
        return ~row
    return row / 2 + 0.1 if row.is_floating_point() else row // 2


def other_values(tensor: Tensor) -> tuple[Tensor, ...]:
    """Other values that an input might have. A number or one a sample (a time-step, a noise level) goes through its
    range and beyond, so that a branch on it is met; a larger tensor stays within its own range."""
    if tensor.dtype == torch.bool:
        return (~tensor,)
    largest = tensor.abs().max() if tensor.numel() else tensor.sum()
    if tensor.numel() > max(1, len(tensor) if tensor.dim() else 1):
        return (torch.zeros_like(tensor), tensor.div(2).to(tensor.dtype))
    values = {value * float(largest) for value in (0, 0.1, 0.5, 2, 5)} | set(TIME_VALUES)
    if tensor.is_floating_point():
        values |= {-1.0}
    return tuple(torch.full_like(tensor, value) for value in sorted(values) if tensor.ne(value).any())


def in_range_first(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Rising values in another order: those in the middle first, where a network is most itself."""
    middle = len(values) // 2
    return values[middle:] + values[:middle]


def same(got: Tensor, expected: Tensor) -> bool:
    """Whether two runs of the same operators agree; far looser than rounding, far tighter than another input."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    finite = expected[torch.isfinite(expected)] if expected.is_floating_point() else expected
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * largest, equal_nan=True)


def is_input(leaf: Any) -> bool:
    """Whether a leaf of a call varies from call to call: a tensor or a number, but not a truth value."""
    return isinstance(leaf, Tensor) or (isinstance(leaf, numbers.Real) and not isinstance(leaf, bool))


def as_tensor(leaf: Any) -> Tensor:
    """A leaf as the graph takes it: on the CPU, floats in float32, integers in int64."""
    tensor = leaf.detach().cpu() if isinstance(leaf, Tensor) else torch.as_tensor(leaf)
    if tensor.dtype.is_floating_point:
        return tensor.to(torch.float32)
    return tensor if tensor.dtype == torch.bool else tensor.to(torch.int64)


def input_name(path: tuple[Any, ...]) -> str:
    """A graph's name for an input: its parameter, and the keys below it joined by an underscore."""
    keys = [getattr(entry, "key", getattr(entry, "idx", entry)) for entry in path]
    return "_".join(str(key) for key in keys)
