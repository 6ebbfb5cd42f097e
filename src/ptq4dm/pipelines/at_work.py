"""Watch a diffusers pipeline from outside while it does its normal work: calls of its parts and scheduler steps.

Nothing of the pipeline is replaced for good: hooks on modules and, on scheduler and VAE objects, wrapped methods,
all gone when the watching ends.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any, Protocol

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ptq4dm.errors import CalibrationError, first_line
from ptq4dm.pipelines.processors import processors_restored


class Watcher(Protocol):
    """Is told what a pipeline does, in order."""

    def called(self, component: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """`component` is about to be called."""
        ...

    def started(self, scheduler: str) -> None:
        """A scheduler was given its time-steps (`set_timesteps`)."""
        ...

    def stepped(self, scheduler: str, timestep: float) -> None:
        """A scheduler is about to make one step. May raise Enough."""
        ...


class Enough(BaseException):
    """Raised by a watcher when it has seen enough: the pipeline's run ends there, without an error."""


def run_watched(source: Any, inputs: Mapping[str, Any], watcher: Watcher) -> None:
    """Run `source(**inputs)` until its work is done, the watcher has seen enough, or it turns to decoding latents.

    The VAE decoder never runs. Raises CalibrationError that says how the pipeline's own call failed.
    """
    try:
        with watching(source, watcher), processors_restored(source.components), torch.no_grad(), quiet_bar(source):
            source(**inputs)
    except Enough:
        return
    except (TypeError, ValueError) as error:
        raise CalibrationError(
            f"{type(source).__name__} does not take the calibration inputs {sorted(inputs)}: {first_line(error)}"
        ) from error


@contextmanager
def watching(source: DiffusionPipeline, watcher: Watcher) -> Iterator[None]:
    """While open, `watcher` is told of every call of a module, every start and step of a scheduler of `source`."""
    with ExitStack() as stack:
        for name, part in source.components.items():
            if isinstance(part, nn.Module):
                handle = part.register_forward_pre_hook(call_hook(watcher, name), with_kwargs=True)
                stack.callback(handle.remove)
                if callable(getattr(part, "decode", None)):
                    stack.enter_context(wrapped(part, "decode", stop_decoding))
            elif is_scheduler(part):
                stack.enter_context(wrapped(part, "set_timesteps", start_hook(watcher, name)))
                stack.enter_context(wrapped(part, "step", step_hook(watcher, name)))
        yield


def is_scheduler(part: Any) -> bool:
    """Whether a component steps through time."""
    return callable(getattr(part, "step", None)) and callable(getattr(part, "set_timesteps", None))


def call_hook(watcher: Watcher, name: str) -> Callable[..., None]:
    """The pre-hook of one component."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        watcher.called(name, module, args, kwargs)

    return hook


def start_hook(watcher: Watcher, name: str) -> Callable[..., Any]:
    """Tell of `set_timesteps` after it was done."""

    def start(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        watcher.started(name)
        return result

    return start


def step_hook(watcher: Watcher, name: str) -> Callable[..., Any]:
    """Tell of `step`, with its time-step, before it is done."""

    def step(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        timestep = inspect.signature(original).bind(*args, **kwargs).arguments.get("timestep")
        if timestep is None:
            taken = ", ".join(inspect.signature(original).parameters)
            raise CalibrationError(
                f"the pipeline's {name} makes a step without a time-step (its step takes {taken}), so calibration "
                "cannot follow it: quantize the network itself with ptq4dm.quantize_module"
            )
        watcher.stepped(name, float(torch.as_tensor(timestep).flatten()[0]))  # some give one a sample, all equal
        return original(*args, **kwargs)

    return step


def stop_decoding(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """In place of a VAE's `decode`: calibration is done when a pipeline comes here."""
    raise Enough


@contextmanager
def wrapped(part: Any, method: str, wrapper: Callable[..., Any]) -> Iterator[None]:
    """While open, `part.method(...)` is `wrapper(original, ...)`, with the original's signature.

    It is a method of `part`: a pipeline that copies its scheduler (LTX-2 does) gets one that acts on the copy.
    """
    bound = getattr(part, method)
    function = bound.__func__ if isinstance(bound, MethodType) else None

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapper(bound if function is None else MethodType(function, self), *args, **kwargs)

    signature = inspect.signature(bound)  # pipelines ask which arguments `step` takes
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    call.__signature__ = signature.replace(parameters=[first, *signature.parameters.values()])
    own = vars(part).get(method)
    vars(part)[method] = MethodType(call, part)
    try:
        yield
    finally:
        if own is None:
            del vars(part)[method]
        else:
            vars(part)[method] = own


@contextmanager
def quiet_bar(source: DiffusionPipeline) -> Iterator[None]:
    """While open, the pipeline draws no progress bar of its own."""
    before = dict(getattr(source, "_progress_bar_config", {}))
    source.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        source.set_progress_bar_config(**before)
