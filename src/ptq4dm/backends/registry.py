"""All backends by name, and the choice between them by measurement."""

import time
import warnings
from typing import Any, Final

import torch
from torch import nn

from ptq4dm.backends.base import Backend
from ptq4dm.backends.cpu.onnxruntime.run import OnnxRuntimeBackend
from ptq4dm.backends.cpu.openvino.run import OpenVINOBackend
from ptq4dm.backends.simulated import SimulatedBackend
from ptq4dm.backends.stand_in import labelled, labels_of, stand_in
from ptq4dm.backends.triton_gpu.run import TritonBackend
from ptq4dm.errors import BackendError, BackendWarning, PTQ4DMError
from ptq4dm.pipelines.denoiser import Call, call_on, placement
from ptq4dm.quantization.attention_products import refuse_products
from ptq4dm.quantization.float_types import half_type

BACKENDS: Final[dict[str, Backend]] = {
    backend.name: backend for backend in (SimulatedBackend(), OpenVINOBackend(), OnnxRuntimeBackend(), TritonBackend())
}
TIMED_CALLS = 3


def speaks(backend: Backend, arithmetic: str) -> bool:
    """Whether a backend computes the arithmetic of an artifact; the simulated one computes every one."""
    return backend.name == "simulated" or backend.arithmetic == arithmetic


def find_backend(wanted: str | Backend, arithmetic: str) -> Backend:
    """The backend of that name, or the one given. Raises BackendError if it is unknown, missing, or of another
    arithmetic."""
    backend = BACKENDS.get(wanted) if isinstance(wanted, str) else wanted
    if not isinstance(backend, Backend):
        raise BackendError(f"no backend {wanted!r}: accepted are auto, {', '.join(BACKENDS)}")
    if not speaks(backend, arithmetic):
        fitting = ", ".join(key for key, other in BACKENDS.items() if speaks(other, arithmetic))
        raise BackendError(
            f"backend {backend.name!r} computes the arithmetic {backend.arithmetic!r}, this artifact is "
            f"{arithmetic!r}: use one of {fitting}, or quantize again with arithmetic = {backend.arithmetic!r}"
        )
    reason = backend.unavailable()
    if reason:
        raise BackendError(reason)
    return backend


def prepare(network: nn.Module, example: Call | None, backend: str | Backend, arithmetic: str) -> nn.Module:
    """The network on a backend, given by name or as an object with options of its own. Its `ptq4dm_backend` names the
    backend; `ptq4dm_notes` tells of those passed over.

    `auto` takes the fastest here for calls like `example`; without one it chooses at the first call that is made.
    Raises BackendError if the backend cannot run the network exactly on this processor.
    """
    if backend != "auto":
        found = find_backend(backend, arithmetic)
        return labelled(prepared(found, network, example), found.name)
    if example is not None:
        return fastest(network, example, arithmetic)
    ready: list[nn.Module] = []

    def run(*args: Any, **kwargs: Any) -> Any:
        if not ready:
            ready.append(fastest(network, Call(args, kwargs), arithmetic))
            labelled(waiting, *labels_of(ready[0]))
        return ready[0](*args, **kwargs)

    waiting = labelled(stand_in(network, run), "auto", ("the fastest backend is chosen at the first call",))
    return waiting


def prepared(backend: Backend, network: nn.Module, example: Call | None) -> nn.Module:
    """The network on one backend. Raises BackendError where an engine is asked for a network on another device, of a
    type that it does not compute in, or one that multiplies attention's matrices in 8 bits.

    A network on the CPU is taken for a GPU too: its user moves it there afterwards, as any pipeline.
    """
    device = placement(network)[0]
    if backend.device == "cpu" and device.type != "cpu":
        raise BackendError(
            f"the network is on {device}, and {backend.name} computes on the CPU: move it there with .to('cpu'), "
            "or use backend='simulated'"
        )
    if backend.device == "cpu" and (dtype := half_type(network)) is not None:
        raise BackendError(
            f"the network is in {dtype}, and {backend.name} computes in float32: cast it, as in "
            "ptq4dm.accelerate(model.to_pipeline(backend='simulated').to(torch.float32)), or use backend='simulated'"
        )
    if backend.name != "simulated":
        refuse_products(network, backend.name)
    return backend.prepare(network, example)


def fastest(network: nn.Module, example: Call, arithmetic: str) -> nn.Module:
    """The network on the backend of this arithmetic that is fastest here for calls like `example`."""
    notes, ready, device = [], {}, placement(network)[0]
    for name, candidate in BACKENDS.items():
        if not speaks(candidate, arithmetic) or (candidate.device == "cuda" and device.type != "cuda"):
            continue
        reason = candidate.unavailable()
        if not reason:
            try:
                ready[name] = prepared(candidate, network, example)
                continue
            except (PTQ4DMError, RuntimeError) as error:
                reason = " ".join(str(error).split())
        notes.append(f"{name}: {reason}")
        warnings.warn(f"backend='auto' passes over {name}: {reason}", BackendWarning, stacklevel=3)
    seconds = {name: seconds_per_call(module, example) for name, module in ready.items()}
    chosen = min(seconds, key=seconds.__getitem__)
    notes += [f"{name}: {1000 * value:.1f} ms a call" for name, value in seconds.items()]
    return labelled(ready[chosen], chosen, tuple(notes))


@torch.no_grad()
def seconds_per_call(module: nn.Module, example: Call) -> float:
    """The fastest of a few calls after one to warm up, in seconds."""
    taken, call = [], call_on(module, example)
    for _ in range(TIMED_CALLS + 1):
        started = time.perf_counter()
        module(*call.args, **call.kwargs)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
