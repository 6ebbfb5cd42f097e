"""Does a network look at the values of its tensors in Python? Where it does, a trace of it may hold what was seen."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

READERS = frozenset(
    getattr(Tensor, name)
    for name in ("numpy", "tolist", "__array__", "__dlpack__", "__deepcopy__", "data_ptr", "storage", "untyped_storage",
                 "apply_", "map_", "__float__", "__int__", "__index__", "__bool__", "__complex__")
)  # fmt: skip
"""Methods that hand out the values of a tensor, those that Python itself calls among them."""
MAKERS = frozenset({torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor})
"""Functions that make a tensor of numbers, and read those that stand in tensors."""


class Operators(TorchDispatchMode):
    """Notes operators of which Python learns values: `.item()` and `if` call one, `torch.equal` is one, and how long
    the answer of `nonzero` or of a mask is depends on the values it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operator's own answer."""
        self.seen = self.seen or tells(func, [*args, *(kwargs or {}).values()])
        return func(*args, **(kwargs or {}))


def tells(func: Any, arguments: list[Any]) -> bool:
    """Whether values of tensors among the arguments can be told from an operator's answer without looking into it."""
    given = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor)]
    if any("Tensor" not in str(answer.type) for answer in func._schema.returns):
        return bool(given)
    if func is torch.ops.aten.index.Tensor:  # by numbers it has the length of these, by a mask that of what is set
        return any(item.dtype in (torch.bool, torch.uint8) for item in given[1:])
    return torch.Tag.dynamic_output_shape in func.tags


class Functions(TorchFunctionMode):
    """Notes what reaches values without an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's own answer."""
        made = func in MAKERS and any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves((args, kwargs)))
        self.seen = self.seen or func in READERS or made
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def reads_values(network: Callable[..., Any], tensors: tuple[Tensor, ...]) -> bool:
    """Whether a call of `network` takes the value of any tensor into Python, be it an input's or a buffer's.

    True too where that cannot be watched (control flow as an operator).
    """
    with Functions() as functions, Operators() as operators:
        try:
            network(*tensors)
        except RuntimeError:
            return True
    return functions.seen or operators.seen
