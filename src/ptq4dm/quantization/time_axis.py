"""Is a quantized network used over the time axis that it was calibrated on? If not, its user is told once.

Ranges were chosen for the activations of some span of time-steps. Every scheduler and any number of steps work; but
where a time-step lies far outside that span, activations may be clipped.
"""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from ptq4dm.errors import ArtifactError, TimeAxisWarning
from ptq4dm.pipelines.denoiser import Call, given

SHARE: Final = 0.1
"""Two axes differ much if a time-step lies outside the calibrated span by more than this share of it."""
TRAINING: Final = 100.0
"""A calibrated span longer than this is one of training steps."""
FINER: Final = 1 / 500
"""They differ too if time-steps are no training steps but noise levels, say from 0 to 1. One call does not tell: it may
be that of an image-to-image run of little strength. But the first few different ones do if all of them lie in this
share of the span, in which there are at most three of a thousand training steps."""
FEW: Final = 4
"""How many different time-steps tell that."""
SELDOM: Final = 16
"""A time-step on a GPU is read at each of the first FEW calls, then at one of so many: reading waits for the GPU."""


def time_axis_of(network: nn.Module, first: Call, last: Call) -> dict[str, Any] | None:
    """The argument that holds the time-step, and its span, by the first and the last call of a run.

    It is the first argument of at most one dimension that differs between them. None if there is none, as in a run of
    one step.
    """
    signature = inspect.signature(network.forward)
    early, late = (signature.bind(*call.args, **call.kwargs).arguments for call in (first, last))
    for name, value in early.items():
        start, end = time_of(value), time_of(late.get(name))
        if start is not None and end is not None and start != end:
            return {"argument": name, "low": min(start, end), "high": max(start, end)}
    return None


def time_of(value: Any) -> float | None:
    """A time-step as a number; of one a sample the largest; None for anything else."""
    if isinstance(value, Tensor):
        return float(value.max()) if value.dim() < 2 and value.numel() else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def axis_entry(axis: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a saved network's config says of the calibrated time axis."""
    return {} if axis is None else {"time_axis": dict(axis)}


def check_axis(axis: Any, network: type[nn.Module] | None, where: Any) -> None:
    """Raise ArtifactError that names `where`: a saved time axis that is none, or is not of this kind of network."""
    if axis is None:
        return
    fine = isinstance(axis, Mapping) and isinstance(axis.get("argument"), str)
    if not fine or any(time_of(axis.get(key)) is None for key in ("low", "high")):
        raise ArtifactError(f"{where}: time_axis = {axis!r:.60} is no span of time-steps: quantize the model again")
    if network is not None and axis["argument"] not in inspect.signature(network.forward).parameters:
        raise ArtifactError(
            f"{where}: time_axis names {axis['argument']!r}, which {network.__name__} does not take: quantize the "
            "model again"
        )


class TimeNote:
    """A hook before the calls of a network, which warns once where their time-steps leave the calibrated axis."""

    def __init__(self, network: nn.Module, axis: Mapping[str, Any]):
        self.name = type(network).__name__
        self.argument, self.low, self.high = axis["argument"], float(axis["low"]), float(axis["high"])
        self.place = list(inspect.signature(network.forward).parameters).index(self.argument)
        self.first: set[float] | None = set() if self.high - self.low > TRAINING else None
        self.told, self.calls = False, 0

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at the time-step of a call; not while it is being compiled or captured in a CUDA graph."""
        if self.told or torch.compiler.is_compiling() or capturing():
            return
        value = given(args, kwargs, self.place, self.argument)
        self.calls += 1
        if self.first is None and self.calls > FEW and self.calls % SELDOM and on_gpu(value):
            return
        t, margin = time_of(value), SHARE * (self.high - self.low)
        if t is None:
            return
        if not self.low - margin <= t <= self.high + margin:
            self.tell(f"is called at time-step {t:g}")
        elif self.first is not None:
            self.follow(t, self.first)

    def follow(self, t: float, first: set[float]) -> None:
        """Look at the first few different time-steps together; as soon as one is no noise level, no more."""
        first.add(t)
        if t > self.low + FINER * (self.high - self.low):
            self.first = None
        elif len(first) == FEW:
            self.tell(f"is called at the time-steps {', '.join(f'{each:g}' for each in sorted(first, reverse=True))}")

    def tell(self, what: str) -> None:
        """Warn, this once."""
        self.told = True
        warnings.warn(
            f"{self.name} {what} and was calibrated over {self.low:g} to {self.high:g}: on a time axis so different "
            "its activations may be clipped; quantize with the scheduler and about the number of steps that you use",
            TimeAxisWarning,
            stacklevel=2,
        )


def on_gpu(value: Any) -> bool:
    """Whether the host must wait to read a time-step."""
    return isinstance(value, Tensor) and value.is_cuda


def capturing() -> bool:
    """Whether a CUDA graph is being captured, in which no number may be read."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def watch_time(network: nn.Module, axis: Mapping[str, Any] | None) -> None:
    """From now on tell once of another time axis; a note that was set before begins anew."""
    hooks = network._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, TimeNote)]:
        del hooks[key]
        network._forward_pre_hooks_with_kwargs.pop(key, None)
    if axis is not None:
        network.register_forward_pre_hook(TimeNote(network, axis), with_kwargs=True)
