"""A second torch device without the hardware: `from elsewhere import ELSEWHERE, elsewhere`.

Tensors there compute on the CPU, but say that they lie on the device `meta`, and as on a real device an operation on
tensors of both places fails (numbers, which are tensors without dimensions, may come from the CPU). Other threads do
not see it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

ELSEWHERE = torch.device("meta")
COPIES = ("aten::_to_copy", "aten::copy_", "aten::item", "aten::_local_scalar_dense")
"""What may see both places, or carry from one to the other."""


class Far(Tensor):
    """A tensor of the pretended device. held: its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> "Far":
        far = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=ELSEWHERE, requires_grad=requires_grad,
        )  # fmt: skip
        far.held = held
        return far

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


class elsewhere(TorchDispatchMode):
    """While open, the device `meta` holds numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(func, args, kwargs or {})


def dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU; its results lie where its arguments lie, or where it is asked to put them."""
    name = func._schema.name
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    far = [leaf for leaf in leaves if isinstance(leaf, Far)]
    near = [leaf for leaf in leaves if not isinstance(leaf, Far) and leaf.dim()]
    if far and near and name not in COPIES:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found two, meta and cpu")
    asked = kwargs.get("device")
    there = bool(far) if asked is None else torch.device(asked) == ELSEWHERE
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    held = {id(leaf): leaf.held for leaf in far}
    own = {id(leaf.held): leaf for leaf in far}
    args, kwargs = pytree.tree_map_only(Far, lambda leaf: held[id(leaf)], (args, kwargs))
    with torch._C._DisableTorchDispatch():
        result = func(*args, **kwargs)
    if name == "aten::copy_":
        return own.get(id(result), result)
    if not there:
        return result
    return pytree.tree_map_only(Tensor, lambda leaf: own[id(leaf)] if id(leaf) in own else Far(leaf), result)
