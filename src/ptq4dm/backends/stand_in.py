"""A module that stands in for a network: its class, config, attributes and signature, with another forward."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn


def stand_in(network: nn.Module, run: Callable[..., Any]) -> nn.Module:
    """A module like `network` whose calls go to `run`; found again as its `ptq4dm_engine`.

    Pipelines ask a denoiser for its config, its class and parts of it: all that is the network's own, shared.
    """

    def forward(*args: Any, **kwargs: Any) -> Any:
        return run(*args, **kwargs)

    forward.__signature__ = inspect.signature(network.forward)  # pyright: ignore[reportFunctionMemberAccess]
    module = copy.copy(network)
    vars(module)["forward"] = forward
    vars(module)["ptq4dm_engine"] = run
    return module


def stands_in(module: nn.Module) -> bool:
    """Whether a module's calls go to an engine."""
    return "ptq4dm_engine" in vars(module)
