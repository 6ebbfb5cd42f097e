"""Which parts of a pipeline are denoisers: found by looking at it at work, not by a list of class names.

A denoiser is a module that is called between two steps of one scheduler, or last before a scheduler's first step.
Text encoders, image encoders and VAEs are called before or after; a ControlNet is called in each step and counts.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ptq4dm.errors import ModelError
from ptq4dm.pipelines.adapters import require_no_adapters
from ptq4dm.pipelines.at_work import run_watched
from ptq4dm.pipelines.denoiser import Call, batch_of, layer_input, require_finite_weights, require_float
from ptq4dm.pipelines.pipeline import Pipeline

FEW_ROWS: Final = 256
"""An input of more rows is one of tokens that a network lays flat, not of pictures or frames: keeping it for every step
would take much memory."""


@dataclass(frozen=True)
class Visit:
    """One step of a scheduler: its time-step, on the scheduler's own axis, and the denoisers called for it."""

    scheduler: str
    timestep: float
    called: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """What a pipeline does in one run. visits: one a scheduler step, in order; examples: the first call of each
    denoiser, tensors copied; latest: the last call of each; inputs: by component and linear layer, the inputs of one
    position a row (such as embeddings of the time-step), each with the index of its visit; rows: of the batches of all
    calls, by denoiser."""

    visits: tuple[Visit, ...]
    examples: Mapping[str, Call]
    latest: Mapping[str, Call] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[str, Sequence[tuple[int, Tensor]]]] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def denoisers(self) -> tuple[str, ...]:
        """The names of the denoisers, in the order in which they are first called."""
        return tuple(self.examples)


@dataclass
class Notes:
    """Takes down a whole run (a Watcher)."""

    visits: list[Visit] = field(default_factory=list)
    examples: dict[str, Call] = field(default_factory=dict)
    latest: dict[str, Call] = field(default_factory=dict)
    inputs: dict[str, dict[str, list[tuple[int, Tensor]]]] = field(default_factory=dict)
    pending: dict[str, Call] = field(default_factory=dict)
    uncertain: dict[str, Call] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    within: bool = False

    def called(self, component: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the call until the next step says whether it belongs to one; the latest caller comes last."""
        self.latest[component] = kept(args, kwargs)
        self.rows[component] += batch_of(args, kwargs)
        earlier = self.pending.pop(component, None)
        self.pending[component] = earlier or self.examples.get(component) or self.latest[component]

    def started(self, scheduler: str) -> None:
        """What came before lies not between two steps."""
        self.within = False

    def stepped(self, scheduler: str, timestep: float) -> None:
        """The calls since the last step belong to this one; of those before a first step, the last for certain, the
        others (a ControlNet's) if a later step has them too."""
        certain = list(self.pending) if self.within else list(self.pending)[-1:]
        for name in certain:
            self.examples.setdefault(name, self.uncertain.get(name, self.pending[name]))
        if not self.within:
            self.uncertain |= {name: call for name, call in self.pending.items() if name not in self.examples}
        self.visits.append(Visit(scheduler, timestep, tuple(self.pending)))
        self.pending.clear()
        self.within = True

    def entered(self, component: str, layer: str, x: Tensor) -> None:
        """Keep an input of a linear layer, (..., channels), if it has one position a row, and few rows."""
        if x.shape[:-1].numel() == len(x) <= FEW_ROWS:
            self.inputs[component].setdefault(layer, []).append((len(self.visits), x.detach().clone()))

    def finish(self) -> Run:
        """The run, with only the denoisers in each visit; what came after the last step belongs to none."""
        visits = [replace(visit, called=tuple(n for n in visit.called if n in self.examples)) for visit in self.visits]
        inputs = {
            name: {layer: [(visit, x) for visit, x in rows if visit < len(visits)] for layer, rows in layers.items()}
            for name, layers in self.inputs.items()
            if name in self.examples
        }
        latest = {name: self.latest[name] for name in self.examples}
        rows = {name: self.rows[name] for name in self.examples}
        return Run(tuple(visits), self.examples, latest, inputs, rows)


def watch_run(pipeline: Pipeline, inputs: Mapping[str, Any]) -> Run:
    """Run the pipeline once on `inputs` and tell its denoisers and time-steps. Raises ModelError if it has none."""
    notes = Notes()
    with linear_inputs(pipeline.source, notes):
        run_watched(pipeline.source, inputs, notes)
    if not notes.visits:
        raise ModelError(
            f"{type(pipeline.source).__name__} made no scheduler step on the calibration inputs {sorted(inputs)}: ask "
            "for more steps in the recipe ([calibration] steps), or for more strength where it starts from pictures"
        )
    if not notes.examples:
        raise ModelError(
            f"{type(pipeline.source).__name__} made {len(notes.visits)} scheduler steps and called no module for them: "
            "there is no denoiser to quantize; quantize the network itself with ptq4dm.quantize_module"
        )
    return notes.finish()


@contextmanager
def linear_inputs(source: DiffusionPipeline, notes: Notes) -> Iterator[None]:
    """While open, `notes` is told of the inputs of all linear layers of a pipeline's parts."""

    def hook(component: str, layer: str) -> Callable[..., None]:
        return lambda module, args, kwargs: notes.entered(component, layer, layer_input(args, kwargs))

    with ExitStack() as stack:
        for component, part in source.components.items():
            if isinstance(part, nn.Module):
                notes.inputs[component] = {}
                for name, layer in part.named_modules():
                    if isinstance(layer, nn.Linear):
                        handle = layer.register_forward_pre_hook(hook(component, name), with_kwargs=True)
                        stack.callback(handle.remove)
        yield


def with_found(pipeline: Pipeline, run: Run) -> Pipeline:
    """The pipeline with the denoisers that a run showed, in evaluation mode.

    Those without a config of their own stay as they are (`left_out`). Raises ModelError: no other one, quantized
    already, adapters, weights not finite.
    """
    found = replace(pipeline, components=run.denoisers)
    left = left_out(found)
    found = replace(found, components=tuple(name for name in run.denoisers if name not in left))
    for name, denoiser in found.denoisers.items():
        require_float(denoiser, f"{pipeline.name}: {name}")
        require_no_adapters(denoiser, f"{pipeline.name}: {name}")
        require_finite_weights(denoiser, f"{pipeline.name}: {name}")
        denoiser.eval()
    return found


def left_out(pipeline: Pipeline) -> dict[str, str]:
    """Which of the denoisers that were found stay in float, with the reason: those without a config, as several
    ControlNets in one pipeline are. Raises ModelError if no other is left."""
    kinds = {name: type(part).__name__ for name, part in pipeline.denoisers.items() if not hasattr(part, "config")}
    if len(kinds) == len(pipeline.components):
        name, kind = next(iter(kinds.items()))
        raise ModelError(
            f"{pipeline.name}: {name} is a {kind}, which has no config and could not be loaded again: quantize it with "
            "ptq4dm.quantize_module"
        )
    return {
        name: f"{kind} has no config of its own, by which a quantized one is loaded again"
        for name, kind in kinds.items()
    }


def not_called(source: DiffusionPipeline, run: Run) -> dict[str, str]:
    """Which parts of a pipeline are of the class of one of its denoisers and were called for no step, with the reason
    why they stay in float: a second stage that a run of few steps does not come to, say."""
    parts = source.components
    kinds = {type(parts[name]): name for name in run.denoisers if name in parts}
    known = {id(parts[name]) for name in run.denoisers if name in parts}
    return {
        name: f"it is a {type(part).__name__} as {kinds[type(part)]} is, and the first calibration run, of "
        f"{len(run.visits)} steps, never called it; with more steps it may"
        for name, part in parts.items()
        if type(part) in kinds and id(part) not in known
    }


def kept(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """A copy of a call that later steps of the pipeline do not change."""
    copied = pytree.tree_map(
        lambda leaf: leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf, (args, copy.copy(kwargs))
    )
    return Call(*copied)
