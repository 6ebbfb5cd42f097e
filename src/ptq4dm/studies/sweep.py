"""The sweep: every layer's input over every visit of the calibration trajectories, once, by band of time-steps.

Smoothing divides inputs before they are counted, so it is chosen before the sweep, by the largest magnitudes on all
trajectories, and is the same for all laws that are read off it. Calibration sets of their own have their own.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptq4dm.calibration.calls import OBSERVED_AT_ONCE, calls_along_time, calls_on
from ptq4dm.calibration.time_layers import layers_of_time
from ptq4dm.errors import ArtifactError
from ptq4dm.files import fingerprint, read_tensors, write_tensors
from ptq4dm.pipelines.denoiser import TimedCall
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.progress import progress
from ptq4dm.quantization.plan import make_plan, planned
from ptq4dm.quantization.quantized_model import example_call
from ptq4dm.quantization.smoothing import Smoothing, smoothing_of, watching_largest
from ptq4dm.ranges.histograms import ONE_BAND, LayerStatistics, band_of
from ptq4dm.ranges.laws import band_shares, joined, sweep_edges, under_law
from ptq4dm.ranges.observe import observe
from ptq4dm.ranges.saved_statistics import statistics_header, statistics_tensors, to_statistics
from ptq4dm.recipe import Recipe
from ptq4dm.studies.pool import Pool


@dataclass(frozen=True, eq=False)
class Sweep:
    """What a sweep saw. statistics: by layer, in bands of `edges`, of layers that see pictures. of_time: of layers that
    follow the time-step alone, in one band: all time-steps, whatever the law. visited: the pool's time-steps."""

    statistics: Mapping[str, LayerStatistics]
    of_time: Mapping[str, LayerStatistics]
    smoothing: Smoothing
    visited: Tensor
    edges: tuple[float, ...]

    def under(self, shares: Tensor) -> dict[str, LayerStatistics]:
        """The statistics under a law, given the share of each visit (visits,)."""
        bands = band_shares(shares, self.visited, self.edges)
        return {name: under_law(item, bands) for name, item in self.statistics.items()} | dict(self.of_time)

    def of_calls(
        self, network: nn.Module, calls: Sequence[TimedCall], smoothing: Smoothing, shown: bool
    ) -> dict[str, LayerStatistics]:
        """The statistics of other calls, in one band, with a smoothing of their own."""
        found = observe(network, list(self.statistics), calls, ONE_BAND, shown, smoothing.factors)
        return found | dict(self.of_time)


def make_sweep(pipeline: Pipeline, pool: Pool, recipe: Recipe, bands: int, folder: Path, shown: bool) -> Sweep:
    """Sweep the pool, band by band; those that were swept before are read."""
    network = pipeline.denoiser
    layers = planned(make_plan(network))
    smoothing = smoothed(pipeline, pool.largest, recipe)
    along = along_time(pipeline)
    timed = layers_of_time(network, along[0][0], along[-1][0], layers)
    edges = sweep_edges(pool.timesteps, bands)
    place = folder / "sweep" / fingerprint(dict(smoothing.factors), pool.facts, list(edges), list(timed))

    def seen(name: str, which: Sequence[str], calls: Iterable[TimedCall]) -> dict[str, LayerStatistics]:
        path = place / f"{name}.safetensors"
        found = read_statistics(path)
        if found is None:
            found = observe(network, which, calls_on(network, calls), ONE_BAND, False, smoothing.factors)
            write_statistics(path, found)
        return found

    of_pictures = [name for name in layers if name not in timed]
    visits = band_of(pool.timesteps, edges)
    parts = []
    with progress("sweep", len(edges) - 1, shown) as advance:
        for band in range(len(edges) - 1):
            own = pool.only(visits == band)
            parts.append(seen(f"band-{band:03d}", of_pictures, own.calls(OBSERVED_AT_ONCE)))
            advance(1)
    statistics = {name: joined([part[name] for part in parts], edges) for name in of_pictures if name in parts[0]}
    of_time = seen("time", timed, along) if timed else {}
    return Sweep(statistics, of_time, smoothing, pool.timesteps, edges)


def smoothed(pipeline: Pipeline, largest: Mapping[str, Tensor], recipe: Recipe) -> Smoothing:
    """The smoothing that follows from the largest magnitudes of the input channels of layers."""
    network = pipeline.denoiser
    rounded = planned(make_plan(network, recipe.keep_float, min_channels=recipe.min_channels))
    return smoothing_of(
        network, {name: largest[name] for name in rounded if name in largest}, example_call(pipeline), recipe.smoothing
    )


def largest_on(network: nn.Module, calls: Sequence[TimedCall]) -> dict[str, Tensor]:
    """The largest magnitude of each input channel of layers on some calls."""
    with watching_largest({"": network}) as largest, torch.no_grad():
        for call, _ in calls:
            network(*call.args, **call.kwargs)
    return largest[""]


def along_time(pipeline: Pipeline) -> list[TimedCall]:
    """Calls all along the time axis, for layers that follow the time-step alone."""
    return calls_on(pipeline.denoiser, calls_along_time(pipeline.picture_shape, pipeline.num_train_timesteps))


def write_statistics(path: Path, statistics: Mapping[str, LayerStatistics]) -> None:
    """Save statistics, whole or not at all."""
    header = {name: statistics_header(item) for name, item in statistics.items()}
    write_tensors(path, statistics_tensors(statistics), {"layers": json.dumps(header)})


def read_statistics(path: Path) -> dict[str, LayerStatistics] | None:
    """What `write_statistics` wrote; None if there is nothing, or it is damaged."""
    try:
        tensors, metadata = read_tensors(path)
        header: dict[str, Any] = json.loads(metadata["layers"])
        return {name: to_statistics(name, item, tensors) for name, item in header.items()}
    except (ArtifactError, KeyError, ValueError):
        return None
