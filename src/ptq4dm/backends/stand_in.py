"""A module that stands in for a network: its class, config, attributes and signature, with another forward."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

LABELS = ("ptq4dm_backend", "ptq4dm_notes")
"""Where a module on a backend tells the backend's name, and notes on those passed over."""


def stand_in(network: nn.Module, run: Callable[..., Any]) -> nn.Module:
    """A module like `network` whose calls go to `run`; found again as its `ptq4dm_engine`.

    Pipelines ask a denoiser for its config, its class and parts of it: all that is the network's own, shared.
    """

    def forward(*args: Any, **kwargs: Any) -> Any:
        return run(*args, **kwargs)

    forward.__signature__ = inspect.signature(network.forward)  # pyright: ignore[reportFunctionMemberAccess]
    module = copy.copy(network)
    vars(module).update(forward=forward, ptq4dm_engine=run)
    return module


def stood_for(module: nn.Module) -> nn.Module:
    """The network that a stand-in stands for, the module itself if it is none."""
    if not stands_in(module):
        return module
    network = copy.copy(module)
    for name in ("forward", "ptq4dm_engine", *LABELS):
        vars(network).pop(name, None)
    return network


def labelled(module: nn.Module, backend: str, notes: tuple[str, ...] = ()) -> nn.Module:
    """The module, with the name of its backend and notes on the choice."""
    vars(module).update(zip(LABELS, (backend, notes)))
    return module


def labels_of(module: nn.Module) -> tuple[str, tuple[str, ...]]:
    """What `labelled` wrote."""
    backend, notes = (vars(module)[name] for name in LABELS)
    return backend, notes


def stands_in(module: nn.Module) -> bool:
    """Whether a module's calls go to an engine."""
    return "ptq4dm_engine" in vars(module)
