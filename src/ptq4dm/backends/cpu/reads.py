"""Does a network look at the values of its tensors in Python? Where it does, a trace of it may hold what was seen."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

UNDISPATCHED = frozenset(
    getattr(Tensor, name)
    for name in ("numpy", "tolist", "__array__", "__dlpack__", "data_ptr", "storage", "untyped_storage")
)
"""Methods that hand out the values of a tensor without an operator that could be watched."""


class _Operators(TorchDispatchMode):
    """Notes operators that answer with something else than tensors: `.item()` and `if` call one, `torch.equal` is."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operator's own answer."""
        if any("Tensor" not in str(answer.type) for answer in func._schema.returns):
            self.seen |= any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves((args, kwargs)))
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    """Notes methods that are `UNDISPATCHED`."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The method's own answer."""
        self.seen |= func in UNDISPATCHED
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def reads_values(network: Callable[..., Any], tensors: tuple[Tensor, ...]) -> bool:
    """Whether a call of `network` takes the value of any tensor into Python, be it an input's or a buffer's.

    True too where that cannot be watched (control flow as an operator).
    """
    with _Methods() as methods, _Operators() as operators:
        try:
            network(*tensors)
        except (NotImplementedError, RuntimeError):
            return True
    return methods.seen or operators.seen
