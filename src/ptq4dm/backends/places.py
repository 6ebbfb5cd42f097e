"""Where networks go before a backend prepares them: it measures, lays out and checks a network where that lies."""

from typing import Any

import torch

from ptq4dm.backends.base import Backend
from ptq4dm.backends.registry import find_backend
from ptq4dm.errors import BackendError, RecipeError
from ptq4dm.pipelines.denoiser import HALF, require_float_type, torch_device


def kind_of(backend: str | Backend, arithmetic: str) -> tuple[str, str]:
    """A backend's name, and the type of device that it computes on; of `auto` any. Raises BackendError."""
    if backend == "auto":
        return "auto", "any"
    found = find_backend(backend, arithmetic)
    return found.name, found.device


def device_for(backend: str | Backend, wanted: str | torch.device | None, arithmetic: str) -> str:
    """The torch device of a run: of the float and the simulated network, and of the quantized one unless its backend is
    an engine of the CPU.

    wanted: what the user named; None: where the backend computes, the CPU where it leaves the choice. Raises
    RecipeError for a device that is not here, BackendError for one on which the backend does not compute, and for a
    backend that cannot be used here.
    """
    name, kind = kind_of(backend, arithmetic)
    if kind in ("any", "cpu"):
        return "cpu" if wanted is None else named(wanted)
    own = kind if is_here(kind) else "cpu"  # a backend that can be used without its device: Triton's interpreter
    if wanted is None:
        return own
    if torch_device(wanted).type != own:
        raise BackendError(f"{name} computes on {own}, and the device is {str(wanted)!r}: name {own}, or no device")
    return str(wanted)


def device_of_network(backend: str | Backend, device: str, arithmetic: str) -> str:
    """Where the quantized network goes in a run on `device`: there, or to the CPU for an engine that computes there."""
    return "cpu" if kind_of(backend, arithmetic)[1] == "cpu" else device


def require_place(
    backend: str | Backend, device: str | torch.device | None, dtype: torch.dtype | None, arithmetic: str
) -> None:
    """Raise BackendError where a pipeline is to go to a device, or to be cast to a type, that a backend does not
    compute on or in; RecipeError where there is no such device or type."""
    name, kind = kind_of(backend, arithmetic)
    if dtype is not None:
        require_float_type(dtype)
    there = "cpu" if device is None else torch_device(device_for(backend, device, arithmetic)).type
    if kind == "cpu" and there != "cpu":
        raise BackendError(
            f"{name} computes on the CPU, and device = {str(device)!r}: leave it out, or use backend='simulated'"
        )
    if dtype in HALF and kind == "cpu":
        raise BackendError(
            f"{name} computes in float32, and torch_dtype = {dtype}: leave it out, or use backend='simulated'"
        )


def named(device: str | torch.device) -> str:
    """The name of a device that is here. Raises RecipeError."""
    torch_device(device)
    return str(device)


def is_here(kind: Any) -> bool:
    """Whether there is a device of that type."""
    try:
        torch_device(kind)
    except RecipeError:
        return False
    return True
