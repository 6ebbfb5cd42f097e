"""Calibration calls for a bare network in the user's own sampling loop: their batches, checked, as calls."""

import inspect
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ptq4dm.errors import CalibrationError
from ptq4dm.pipelines.denoiser import RAISED_BY_CALLS, Call, TimedCall
from ptq4dm.pipelines.loading import one_line
from ptq4dm.ranges.observe import evaluating

TimestepOf = str | Callable[[tuple[Any, ...], Mapping[str, Any]], Any] | None


def calls_of_batches(
    module: nn.Module, calibration_batches: Iterable[Any], timestep: TimestepOf
) -> Iterator[TimedCall]:
    """The user's batches as calls, each with the (batch,) time-steps of its samples.

    calibration_batches: each is `(args, kwargs)` of one call of `module`, or a Call. timestep: the argument of
    `module.forward` that is the time-step (any noise level: it is only compared), or a function (args, kwargs) ->
    number or tensor, or None if the network has none (then no time-steps come).
    Raises CalibrationError: no batch, not a batch, an argument that forward does not have, NaN or infinity, time-steps
    that are neither one nor one a sample. No batches or an unknown argument are reported at once, the rest when its
    batch is reached.
    """
    try:
        batches = iter(calibration_batches)
    except TypeError:
        raise CalibrationError(
            f"calibration_batches = {calibration_batches!r:.60} cannot be gone through: give a list or an iterator of "
            "(args, kwargs), each of one call, such as [((x, t), {})]"
        ) from None
    signature = inspect.signature(module.forward)
    if isinstance(timestep, str):
        open_ended = any(item.kind is item.VAR_KEYWORD for item in signature.parameters.values())
        if timestep not in signature.parameters and not open_ended:
            raise CalibrationError(
                f"timestep = {timestep!r} is no argument of {type(module).__name__}.forward: accepted are "
                f"{', '.join(signature.parameters)}, or a function (args, kwargs)"
            )
    elif timestep is not None and not callable(timestep):
        raise CalibrationError(f"timestep = {timestep!r} should be an argument name, a function (args, kwargs) or None")
    return checked_calls(signature, batches, timestep)


def checked_calls(signature: inspect.Signature, batches: Iterable[Any], timestep: TimestepOf) -> Iterator[TimedCall]:
    """Yield the calls one by one; raises CalibrationError that names the batch."""
    empty = True
    for index, batch in enumerate(batches):
        empty, where = False, f"calibration batch {index}"
        call = as_call(batch, where)
        try:
            bound = signature.bind(*call.args, **call.kwargs)
        except TypeError as error:
            raise CalibrationError(f"{where} does not fit the network's forward{signature}: {error}") from error
        tensors = tensors_of(bound.arguments)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise CalibrationError(f"{where}: argument {name} holds NaN or infinity: leave it out, or mend it")
        size = next((len(tensor) for tensor in tensors.values() if tensor.dim() > 1), None)
        if size == 0:
            raise CalibrationError(f"{where} holds no samples: leave it out")
        yield call, None if timestep is None else per_sample(value_of(timestep, call, bound, where), size, where)
    if empty:
        raise CalibrationError("no calibration batches: give at least one (args, kwargs); an iterator can be used once")


@torch.no_grad()
def require_runnable(module: nn.Module, calls: Sequence[TimedCall]) -> None:
    """Raise CalibrationError that names the batch where `module` cannot be run on it; a call of each form is tried."""
    tried = set()
    with evaluating(module):
        for index, (call, _) in enumerate(calls):
            if form_of(call) in tried:
                continue
            tried.add(form_of(call))
            try:
                module(*call.args, **call.kwargs)
            except RAISED_BY_CALLS as error:
                raise CalibrationError(
                    f"{type(module).__name__} cannot be run on calibration batch {index} ({type(error).__name__}: "
                    f"{one_line(error)}): give calls as your own sampling loop makes them"
                ) from error


def form_of(call: Call) -> tuple[Any, ...]:
    """Shapes, types and devices of a call's tensors, nested ones too, and the kinds of all else."""
    leaves, structure = pytree.tree_flatten((call.args, call.kwargs))
    tensors = [(item.shape, item.dtype, item.device) if isinstance(item, Tensor) else type(item) for item in leaves]
    return str(structure), *tensors


def as_call(batch: Any, where: str) -> Call:
    """`(args, kwargs)` or a Call as a Call. Raises CalibrationError."""
    if isinstance(batch, Call):
        return batch
    if isinstance(batch, tuple | list) and len(batch) == 2:
        args, kwargs = batch
        if isinstance(args, tuple | list) and isinstance(kwargs, Mapping):
            return Call(tuple(args), dict(kwargs))
    raise CalibrationError(
        f"{where} is a {type(batch).__name__}: it should be (args, kwargs) of one call, such as ((x, t), {{}})"
    )


def tensors_of(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors among bound arguments, *args and **kwargs included, by name."""
    found = {}
    for name, value in arguments.items():
        items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, tuple) else ()
        found |= {f"{name}[{key}]": item for key, item in items if isinstance(item, Tensor)}
        if isinstance(value, Tensor):
            found[name] = value
    return found


def value_of(timestep: Any, call: Call, bound: inspect.BoundArguments, where: str) -> Any:
    """The time-step of one call, by argument name or by the user's function."""
    if not isinstance(timestep, str):
        return timestep(call.args, call.kwargs)
    bound.apply_defaults()
    if timestep in bound.arguments:
        return bound.arguments[timestep]
    if timestep in call.kwargs:
        return call.kwargs[timestep]
    raise CalibrationError(f"{where} has no argument {timestep!r}")


def per_sample(value: Any, size: int | None, where: str) -> Tensor:
    """One time-step a sample, (batch,), on the CPU. `size`: of the batch, None if unknown. Raises CalibrationError."""
    if not isinstance(value, Tensor | numbers.Real) or isinstance(value, bool):
        raise CalibrationError(f"{where}: its time-step is {value!r}, and should be a number or a tensor")
    flat = torch.as_tensor(value).detach().cpu().reshape(-1)
    if flat.is_floating_point() and not torch.isfinite(flat).all():
        raise CalibrationError(f"{where}: its time-step holds NaN or infinity")
    size = len(flat) if size is None else size
    if len(flat) not in (1, size):
        raise CalibrationError(f"{where}: {len(flat)} time-steps for {size} samples; give one, or one a sample")
    return flat.expand(size).clone() if len(flat) == 1 else flat
