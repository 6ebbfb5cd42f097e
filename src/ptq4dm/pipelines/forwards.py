"""Another forward for one module, for a while."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """While open, calls of `module` run `forward`; its class and other instances are untouched.

    Afterwards it has its own again: one set on it, as libraries that move networks do, or that of its class.
    """
    own = vars(module).get("forward")
    module.forward = forward  # type: ignore[method-assign]  # torch calls the instance's
    try:
        yield
    finally:
        if own is None:
            vars(module).pop("forward", None)
        else:
            module.forward = own  # type: ignore[method-assign]  # as above
