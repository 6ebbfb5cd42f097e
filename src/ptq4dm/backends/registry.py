"""All backends by name, and the choice between them by measurement."""

import time
import warnings
from typing import Final

import torch
from torch import nn

from ptq4dm.backends.base import Backend
from ptq4dm.backends.cpu.onnxruntime.run import OnnxRuntimeBackend
from ptq4dm.backends.cpu.openvino.run import OpenVINOBackend
from ptq4dm.backends.simulated import SimulatedBackend
from ptq4dm.errors import BackendError, BackendWarning, PTQ4DMError
from ptq4dm.pipelines.denoiser import Call

BACKENDS: Final[dict[str, Backend]] = {
    backend.name: backend for backend in (SimulatedBackend(), OpenVINOBackend(), OnnxRuntimeBackend())
}
TIMED_CALLS = 3


def speaks(backend: Backend, arithmetic: str) -> bool:
    """Whether a backend computes the arithmetic of an artifact; the simulated one computes every one."""
    return backend.name == "simulated" or backend.arithmetic == arithmetic


def find_backend(name: str, arithmetic: str) -> Backend:
    """The backend of that name. Raises BackendError if it is unknown, missing, or of another arithmetic."""
    if name not in BACKENDS:
        raise BackendError(f"no backend {name!r}: accepted are auto, {', '.join(BACKENDS)}")
    backend = BACKENDS[name]
    if not speaks(backend, arithmetic):
        fitting = ", ".join(key for key, other in BACKENDS.items() if speaks(other, arithmetic))
        raise BackendError(
            f"backend {name!r} computes the arithmetic {backend.arithmetic!r}, this artifact is {arithmetic!r}: "
            f"use one of {fitting}, or quantize again with arithmetic = {backend.arithmetic!r}"
        )
    reason = backend.unavailable()
    if reason:
        raise BackendError(reason)
    return backend


def prepare(network: nn.Module, example: Call, backend: str, arithmetic: str) -> tuple[nn.Module, str, list[str]]:
    """The network on a backend, the backend's name, and notes on those passed over. `auto` takes the fastest here.

    Raises BackendError if the named backend cannot run the network exactly on this processor.
    """
    if backend != "auto":
        return find_backend(backend, arithmetic).prepare(network, example), backend, []
    notes, ready = [], {}
    for name, candidate in BACKENDS.items():
        if not speaks(candidate, arithmetic):
            continue
        reason = candidate.unavailable()
        if not reason:
            try:
                ready[name] = candidate.prepare(network, example)
                continue
            except (PTQ4DMError, RuntimeError) as error:
                reason = " ".join(str(error).split())
        notes.append(f"{name}: {reason}")
        warnings.warn(f"backend='auto' passes over {name}: {reason}", BackendWarning, stacklevel=3)
    seconds = {name: seconds_per_call(module, example) for name, module in ready.items()}
    fastest = min(seconds, key=seconds.__getitem__)
    notes += [f"{name}: {1000 * value:.1f} ms a call" for name, value in seconds.items()]
    return ready[fastest], fastest, notes


@torch.no_grad()
def seconds_per_call(module: nn.Module, example: Call) -> float:
    """The fastest of a few calls after one to warm up, in seconds."""
    taken = []
    for _ in range(TIMED_CALLS + 1):
        started = time.perf_counter()
        module(*example.args, **example.kwargs)
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
