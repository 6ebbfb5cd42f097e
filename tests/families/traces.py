"""What a pipeline does while it draws: which component is called with what, and when a scheduler steps."""

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin

from families.family import modules


@dataclass(frozen=True)
class Event:
    """A call of the component `name` (`arguments` tells with what), or a step of the scheduler `name`."""

    name: str
    is_step: bool
    arguments: str = ""


@contextmanager
def traced(pipeline: DiffusionPipeline) -> Iterator[list[Event]]:
    """Record every call of a component and every step of a scheduler, in the order in which they happen."""
    events: list[Event] = []
    hooks = [
        module.register_forward_pre_hook(recorder(name, events), with_kwargs=True)
        for name, module in modules(pipeline).items()
    ]
    schedulers = {name: part for name, part in pipeline.components.items() if isinstance(part, SchedulerMixin)}
    for name, scheduler in schedulers.items():
        scheduler.step = stepper(name, scheduler.step, events)
    try:
        yield events
    finally:
        for hook in hooks:
            hook.remove()
        for scheduler in schedulers.values():
            del scheduler.step


def recorder(name: str, events: list[Event]) -> Any:
    """A hook that records a call of the component `name`."""

    def record(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = [f"{key}={described(value)}" for key, value in kwargs.items()]
        events.append(Event(name, False, ", ".join([*map(described, args), *named])))

    return record


def stepper(name: str, step: Any, events: list[Event]) -> Any:
    """The method `step` of the scheduler `name`, recorded. It keeps its signature, which pipelines look at."""

    @functools.wraps(step)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        events.append(Event(name, True))
        return step(*args, **kwargs)

    return recorded


def called_between_steps(events: list[Event]) -> set[str]:
    """The components that are called after one step of a scheduler and before the next step of the same one."""
    found: set[str] = set()
    steps = [index for index, event in enumerate(events) if event.is_step]
    for one, next_one in itertools.pairwise(steps):
        if events[one].name == events[next_one].name:
            found |= {event.name for event in events[one + 1 : next_one]}
    return found


def described(value: Any) -> str:
    """A short word on an argument: shape and type of a tensor, the parts of a container, else the value itself."""
    if isinstance(value, torch.Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind}{list(value.shape)}" if value.numel() > 2 else f"{kind}{list(value.shape)}:{value.tolist()}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {described(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        inside = ", ".join(map(described, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return repr(value)
