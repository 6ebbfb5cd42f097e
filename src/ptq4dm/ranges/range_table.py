"""RangeTable: how every layer's input is quantized, and the statistics that say so. Immutable, saved, fingerprinted."""

import dataclasses
import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptq4dm.errors import ArtifactError, CalibrationError, RecipeError
from ptq4dm.files import fingerprint, read_tensors, write_tensors
from ptq4dm.numerics import ACTIVATION_MAX
from ptq4dm.progress import progress
from ptq4dm.ranges.histograms import LayerStatistics
from ptq4dm.ranges.metrics import make_metric
from ptq4dm.ranges.mixture import Mixture, mixture_of
from ptq4dm.ranges.saved_statistics import statistics_header, statistics_tensors, to_statistics
from ptq4dm.ranges.search import InputRange, search_range
from ptq4dm.recipe import RangeRecipe, plain

FORMAT_VERSION = 2
RANGE_TABLE = "range_table.safetensors"
"""Its name in the folder of the work; of several denoisers, the denoiser's stands before it."""
LARGEST = 1e16
"""Inputs beyond it cannot be measured: sums of their squares leave the range of float32."""
SUMMARY_PERCENTILES = (0.1, 1.0, 50.0, 99.0, 99.9)


@dataclass(frozen=True)
class RangeTable:
    """Per layer the InputRange chosen and the LayerStatistics behind it; `facts`: how it was chosen, as JSON data."""

    ranges: Mapping[str, InputRange]
    statistics: Mapping[str, LayerStatistics]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Of the ranges, the statistics and the facts."""
        return fingerprint(self.tensors(), header(self))

    def tensors(self) -> dict[str, Tensor]:
        """The statistics behind the ranges, as saved."""
        return statistics_tensors({name: self.statistics[name] for name in self.ranges})

    def save(self, path: Path) -> None:
        """Write one safetensors file, all histograms in it, whole or not at all."""
        metadata = {"format": "ptq4dm-ranges", "version": str(FORMAT_VERSION), "header": json.dumps(header(self))}
        write_tensors(path, self.tensors(), metadata)

    @staticmethod
    def load(path: Path) -> "RangeTable":
        """Read what `save` wrote. Raises ArtifactError if it is damaged, foreign or of a newer format."""
        tensors, metadata = read_tensors(path)
        if metadata.get("format") != "ptq4dm-ranges":
            raise ArtifactError(f"{path} is no range table: give a file that RangeTable.save wrote")
        if metadata.get("version") != str(FORMAT_VERSION):
            raise ArtifactError(
                f"{path} has range-table format {metadata.get('version')!r}, this ptq4dm reads {FORMAT_VERSION}: "
                "use the ptq4dm that wrote it, or calibrate again"
            )
        try:
            head = json.loads(metadata["header"])
            ranges = {name: checked_range(InputRange(**item["range"])) for name, item in head["layers"].items()}
            statistics = {name: to_statistics(name, item, tensors) for name, item in head["layers"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ArtifactError(f"{path} is damaged ({error!r}): calibrate again") from error
        return RangeTable(ranges, statistics, head["facts"])


def choose_ranges(
    statistics: Mapping[str, LayerStatistics],
    recipe: RangeRecipe,
    band_weights: Tensor | Sequence[float] | None = None,
    levels: int = ACTIVATION_MAX,
    shown: bool = False,
) -> RangeTable:
    """Choose every layer's range by the recipe's metric, over the samples as collected.

    With `band_weights` (bands,), the share of each band under another law of t, that law is evaluated without
    collecting again. Raises RecipeError for a metric that is not accepted, CalibrationError for a band without data.
    """
    metric = make_metric(recipe.metric, recipe.metric_options)
    weights = None if band_weights is None else torch.as_tensor(band_weights, dtype=torch.float64)
    if weights is not None and not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise CalibrationError(f"band weights {weights.tolist()} should be finite and not negative")
    ranges: dict[str, InputRange] = {}
    found: dict[Hashable, InputRange] = {}  # several layers may be given one and the same input
    with progress("choosing ranges", len(statistics), shown) as advance:
        for name, item in statistics.items():
            mixture = mixture_of(item, weights)
            require_squarable(name, mixture)
            key = mixture.key
            if key not in found:
                try:
                    found[key] = search_range(mixture, metric, levels)
                except RecipeError as error:
                    span = f"input from {mixture.low:g} to {mixture.high:g}"
                    raise RecipeError(f"layer {name}, {span}: {error}") from error
            ranges[name] = found[key]
            advance(1)
    facts = {
        **plain(dataclasses.asdict(recipe)),
        "levels": levels,
        "band_weights": None if weights is None else weights.tolist(),
    }
    return RangeTable(ranges, dict(statistics), facts)


def require_squarable(name: str, mixture: Mixture) -> None:
    """Raise CalibrationError, with the layer's name, for an input whose squares overflow float32."""
    largest = max(-mixture.low, mixture.high)
    if largest > LARGEST:
        raise CalibrationError(
            f"the input of layer {name} reaches {largest:g} in calibration (accepted: up to {LARGEST:g}): the float "
            "network all but overflows there; check its weights and the calibration inputs, or add the layer to "
            "keep_float"
        )


def header(table: RangeTable) -> dict[str, Any]:
    """All of a table that is no tensor, as plain JSON data."""
    layers = {
        name: {
            "range": dataclasses.asdict(chosen),
            **statistics_header(table.statistics[name]),
        }
        for name, chosen in table.ranges.items()
    }
    return {"layers": layers, "facts": plain(dict(table.facts))}


def checked_range(chosen: InputRange) -> InputRange:
    """Refuse a range that no layer can use."""
    if not (math.isfinite(chosen.scale) and chosen.scale > 0 and isinstance(chosen.zero_point, int)):
        raise ValueError(f"scale {chosen.scale!r}, zero point {chosen.zero_point!r}")
    return chosen


def summary_of(item: LayerStatistics) -> list[dict[str, Any]]:
    """One row a band of time-steps, as plain data: its edges, min, max and percentiles of the input, None if empty."""
    rows: list[dict[str, Any]] = []
    for index in range(item.bands):
        edges = [edge if math.isfinite(edge) else None for edge in item.edges[index : index + 2]]
        row: dict[str, Any] = {"from": edges[0], "to": edges[1], "min": None, "max": None, "percentiles": None}
        if int(item.positions[index]) > 0:
            only = torch.zeros(item.bands, dtype=torch.float64)
            only[index] = 1
            mixture = mixture_of(item, only)
            percentiles = {f"{percent:g}": mixture.quantile(percent / 100) for percent in SUMMARY_PERCENTILES}
            row.update(min=mixture.low, max=mixture.high, percentiles=percentiles)
        rows.append(row)
    return rows
