"""Calibrate the denoisers of any pipeline while it does its normal work: statistics stream, no run is kept.

As in the paper every picture is looked at once for each denoiser, at its own drawn time-step (PTQ4DM, arXiv
2211.15736, section 3.3). A drawn t in [0, T - 1] is mapped to the time axis of the pipeline's scheduler by its place in
it, u = t / (T - 1): the wanted time is low + u (high - low), where low and high are the least and the greatest time at
which the pipeline calls that denoiser, and the nearest time that it visits is taken. So the law holds on discrete,
continuous and flow-matching axes, and on the part of an axis that image-to-image or one of two stages uses.
What follows the time-step alone is counted at every time-step (`calibration.time_layers`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from ptq4dm.calibration.checkpoint import Checkpoint, checkpoint_key, read_checkpoint, write_checkpoint
from ptq4dm.calibration.collect import LAW_STREAM, check, sample_seed, stream
from ptq4dm.calibration.cost import costs_of, counting_rows, runs_within
from ptq4dm.calibration.time_layers import count_everywhere, layers_of_time
from ptq4dm.calibration.timesteps import draw_timesteps, resolve_law
from ptq4dm.errors import CalibrationError, RecipeError
from ptq4dm.pipelines.at_work import Enough, run_watched
from ptq4dm.pipelines.conditions import Condition, run_inputs
from ptq4dm.pipelines.denoiser import batch_of
from ptq4dm.pipelines.denoisers import Run
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.progress import Advance, progress
from ptq4dm.ranges.histograms import LayerStatistics, band_edges
from ptq4dm.ranges.observe import Observer, observing
from ptq4dm.recipe import CalibrationRecipe, plain

CHECKPOINT: Final = "runs.safetensors"


@dataclass(frozen=True, eq=False)
class Target:
    """When the pictures are looked at for one denoiser. visits: (samples,) int64, indices into the run's visits;
    times: (samples,) float64, the time-steps there."""

    visits: Tensor
    times: Tensor


def statistics_in_pipeline(
    pipeline: Pipeline,
    run: Run,
    conditions: Sequence[Condition],
    recipe: CalibrationRecipe,
    layers: Mapping[str, Sequence[str]],
    bands: int,
    shown: bool = True,
    smoothing: Mapping[str, Mapping[str, Tensor]] | None = None,
    cache: Path | None = None,
    checked: Mapping[str, int] | None = None,
    macs: Mapping[str, int] | None = None,
) -> tuple[dict[str, dict[str, LayerStatistics]], dict[str, Any]]:
    """Run the pipeline for `recipe.samples` pictures, conditions taken in turn, and watch the inputs of `layers`.

    run: one run of the pipeline with as many steps, which tells its time axis. layers: names by denoiser. smoothing: by
    denoiser and layer, what to divide each input channel by before it is counted. Pictures that stop early share a run,
    which ends with the last time-step that one of them needs: of few pictures fewer share one, or one is looked at for
    two of them, so that all of it costs no more than running the pipeline for them (`cost.runs_within`). cache: a
    folder for what the finished runs gave; a calibration of the same pipeline, conditions and recipe that finds it
    there goes on with the next run, and gives the same to the last bit. checked: rows by denoiser that were made
    before, beside `run`; macs: multiply-adds of a row of each denoiser.
    Returns statistics by denoiser and layer, and how the calibration was done, as JSON data.
    Raises RecipeError, CalibrationError, ArtifactError (the cache cannot be written).
    """
    check(recipe)
    if recipe.source != "denoising":
        raise RecipeError(
            f"source = {recipe.source!r}: a conditional pipeline is calibrated on its own denoising; use 'denoising'"
        )
    drawn = draw(recipe, pipeline.num_train_timesteps)
    targets = {
        name: target_of(run, name, drawn.double() / (pipeline.num_train_timesteps - 1)) for name in pipeline.components
    }
    last = torch.stack([target.visits for target in targets.values()]).amax(0)
    by_last = last.argsort(stable=True).tolist()
    with counting_rows(pipeline.denoisers) as of_checks:
        timed = {
            name: layers_of_time(
                denoiser,
                run.examples[name],
                run.latest[name],
                [layer for layer in layers[name] if layer in run.inputs.get(name, {})],
            )
            for name, denoiser in pipeline.denoisers.items()
        }
    beside = of_checks + Counter(checked or {})
    size, spared = runs_within([int(last[index]) for index in by_last], recipe.batch_size, costs_of(run, beside, macs))
    order, host = [*by_last[: len(by_last) - 1 - spared], by_last[-1]], by_last[-1]
    looked_at = {index: [index] for index in order} | {host: by_last[len(by_last) - 1 - spared :]}
    path = None
    if cache is not None:
        factors = {f"{name}/{layer}": item for name, of in (smoothing or {}).items() for layer, item in of.items()}
        watched = {"layers": {name: list(names) for name, names in layers.items()}, "bands": bands, "timed": timed}
        watched |= {"runs": [size, spared]}
        key = checkpoint_key(pipeline, run, conditions, recipe, watched, {"drawn": drawn, **factors})
        path = cache / key / CHECKPOINT
    before = read_checkpoint(path)
    made: Counter[str] = Counter() if before is None else Counter(before.made)
    rows: Counter[str] = Counter() if before is None else Counter(before.rows)
    with ExitStack() as stack:
        done = stack.enter_context(progress("calibration", int(last[order].sum()) + len(order), shown))
        observers = {
            name: stack.enter_context(
                observing(denoiser, layers[name], edges_of(run, name, bands), (smoothing or {}).get(name))
            )
            for name, denoiser in pipeline.denoisers.items()
        }
        for name, denoiser in pipeline.denoisers.items():
            if before is None:
                count_everywhere(denoiser, timed[name], run, name, observers[name])
            else:
                observers[name].go_on(before.statistics.get(name, {}))
        groups = runs_of(pipeline, conditions, order, replace(recipe, batch_size=size))
        for index, (batch, inputs) in enumerate(groups):
            if before is not None and index < before.runs:
                done(len(batch) * (int(last[batch].amax()) + 1))
                continue
            chosen = {name: [target.visits[looked_at[index]] for index in batch] for name, target in targets.items()}
            harvester = Harvester(run, observers, chosen, int(last[batch].amax()), done)
            run_watched(pipeline.source, inputs, harvester)
            if not harvester.finished:
                raise CalibrationError(
                    f"the pipeline ended after {harvester.visit} steps where its first run made {len(run.visits)}: "
                    "give all calibration conditions the same schedule (strength, timesteps, sigmas)"
                )
            made.update(harvester.made)
            rows.update(harvester.rows)
            if path is not None:
                write_checkpoint(path, Checkpoint(index + 1, made, rows, finished(observers)))
    total = len(drawn) * sum(len(visit.called) for visit in run.visits)
    facts = {
        "model": pipeline.name,
        "model_fingerprint": pipeline.fingerprint,
        "source": "the pipeline's own runs",
        "law": plain(recipe.timesteps),
        "law_options": plain(recipe.law_options),
        "sampler": type(pipeline.scheduler).__name__,
        "steps": recipe.steps,
        "seed": recipe.seed,
        "samples": recipe.samples,
        "conditions": len(conditions),
        "calls_made": made.total(),
        "calls_saved": total - made.total(),
        "calls_of": {name: made[name] for name in pipeline.components},
        "pictures_drawn": len(order),
        "rows_made": {name: run.rows[name] + beside[name] + rows[name] for name in pipeline.components},
        "rows_of_running": {name: run.rows[name] * recipe.samples for name in pipeline.components},
        "drawn_timesteps": drawn.tolist(),
        "visited_timesteps": {name: target.times.tolist() for name, target in targets.items()},
        "layers_of_time": {name: list(found) for name, found in timed.items()},
        "time_axis": [visit.timestep for visit in run.visits],
    }
    return finished(observers), facts


def finished(observers: Mapping[str, Observer]) -> dict[str, dict[str, LayerStatistics]]:
    """The statistics so far, by denoiser and layer."""
    return {name: {key: item.finish() for key, item in o.histograms.items()} for name, o in observers.items()}


def draw(recipe: CalibrationRecipe, num_train_timesteps: int) -> Tensor:
    """The law's time-steps, (samples,) int64 in [0, T - 1]."""
    law = resolve_law(recipe.timesteps, recipe.law_options)
    rng = np.random.default_rng(stream(recipe.seed, LAW_STREAM))
    return torch.from_numpy(draw_timesteps(law, recipe.samples, num_train_timesteps, rng))


def target_of(run: Run, denoiser: str, places: Tensor) -> Target:
    """Where on the way each picture is looked at for one denoiser: at the visited time nearest to its place u, the
    first time it comes by; of two as near, the noisier one. places: (samples,) from 0 to 1, 1 the noisiest."""
    own = torch.tensor([index for index, visit in enumerate(run.visits) if denoiser in visit.called])
    times = torch.tensor([run.visits[index].timestep for index in own.tolist()], dtype=torch.float64)
    low, high = times.min(), times.max()
    wanted = low + places * (high - low)
    distance = (times[None, :] - wanted[:, None]).abs()
    near = distance <= distance.amin(1, keepdim=True)
    noisiest = torch.where(near, times, -torch.inf).amax(1, keepdim=True)
    first = (near & (times == noisiest)).double().argmax(1)
    return Target(own[first], times[first])


def edges_of(run: Run, denoiser: str, bands: int) -> tuple[float, ...]:
    """Edges of the bands over the times at which a denoiser is called."""
    times = [visit.timestep for visit in run.visits if denoiser in visit.called]
    return band_edges(bands, min(times), max(times))


def runs_of(
    pipeline: Pipeline, conditions: Sequence[Condition], order: Sequence[int], recipe: CalibrationRecipe
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """The runs to make: which pictures (at most `batch_size`, in `order`, singly where they cannot share a run), and
    the pipeline's arguments."""

    def inputs_of(group: Sequence[int]) -> dict[str, Any] | None:
        seeds = [sample_seed(recipe.seed, index) for index in group]
        return run_inputs(pipeline.source, [conditions[i % len(conditions)] for i in group], seeds, recipe.steps)

    for first in range(0, len(order), recipe.batch_size):
        group = list(order[first : first + recipe.batch_size])
        together = inputs_of(group)
        for part in [group] if together is not None else [[index] for index in group]:
            yield part, together or inputs_of(part) or {}


@dataclass
class Harvester:
    """Counts the inputs of layers at the visits that the pictures of one run are looked at (a Watcher).

    targets: by denoiser the visits of each picture; last: the visit after which the run ends; made: calls by denoiser,
    one a picture; rows: of the batches of these calls.
    """

    run: Run
    observers: Mapping[str, Observer]
    targets: Mapping[str, Sequence[Tensor]]
    last: int
    done: Advance
    visit: int = 0
    made: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    finished: bool = False

    def called(self, component: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Choose the rows of the pictures that are looked at now; guidance repeats all pictures in turn."""
        if component not in self.observers:
            return
        observer = self.observers[component]
        chosen = torch.tensor([bool((visits == self.visit).any()) for visits in self.targets[component]])
        rows, pictures = batch_of(args, kwargs), len(chosen)
        self.rows[component] += rows
        observer.timesteps = torch.tensor([self.time()], dtype=torch.float64)
        observer.chosen = chosen.repeat(rows // pictures) if rows % pictures == 0 else chosen.any().expand(max(rows, 1))

    def time(self) -> float:
        """The time-step of the present visit, as the first run had it."""
        return self.run.visits[self.visit].timestep

    def started(self, scheduler: str) -> None:
        """Nothing is looked at for it."""

    def stepped(self, scheduler: str, timestep: float) -> None:
        """Go on to the next visit, or end the run after the last that is needed."""
        if timestep != self.time():
            raise CalibrationError(
                f"the pipeline visits time-step {timestep:g} where its first run visited {self.time():g}: give all "
                "calibration conditions the same schedule (strength, timesteps, sigmas)"
            )
        pictures = len(next(iter(self.targets.values())))
        self.made.update(dict.fromkeys(self.run.visits[self.visit].called, pictures))
        self.done(pictures)
        if self.visit == self.last:
            self.finished = True
            raise Enough
        self.visit += 1
