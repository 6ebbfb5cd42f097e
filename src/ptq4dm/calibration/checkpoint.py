"""How far the calibration of a pipeline at work has come, in one file: an interrupted one goes on from there.

The file is written anew after each run of the pipeline. It holds sums, and adding goes on in the same order, so the
result is that of an uninterrupted calibration to the bit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils import _pytree as pytree

from ptq4dm import files
from ptq4dm.errors import ArtifactError
from ptq4dm.pipelines.conditions import Condition
from ptq4dm.pipelines.denoisers import Run
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.ranges.histograms import LayerStatistics
from ptq4dm.ranges.saved_statistics import statistics_header, statistics_tensors, to_statistics
from ptq4dm.recipe import CalibrationRecipe, plain


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """runs: how many runs of the pipeline are finished; made: calls by denoiser, rows: of their batches; statistics: by
    denoiser and layer."""

    runs: int
    made: Mapping[str, int]
    rows: Mapping[str, int]
    statistics: Mapping[str, Mapping[str, LayerStatistics]]


def checkpoint_key(
    pipeline: Pipeline,
    run: Run,
    conditions: Sequence[Condition],
    recipe: CalibrationRecipe,
    watched: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> str:
    """What statistics depend on: the denoisers, what the first run showed of all other parts, the conditions that are
    used, the recipe, and what is watched (JSON data and `tensors`: time-steps, smoothing)."""
    used = min(recipe.samples, len(conditions))
    seen = {f"{kind}.{name}": call for kind in ("examples", "latest") for name, call in getattr(run, kind).items()}
    found, rest = content_of({name: (call.args, call.kwargs) for name, call in seen.items()})
    for index in range(used):  # one in memory at a time
        rest.append(files.fingerprint(*content_of(dict(conditions[index]))))
    facts = (pipeline.fingerprint, plain(asdict(recipe)), [asdict(visit) for visit in run.visits], len(conditions))
    return files.fingerprint({**tensors, **found}, *facts, dict(watched), rest)


def content_of(values: Any) -> tuple[dict[str, Tensor], list[str]]:
    """Nested values as tensors (of images and arrays too) and, for all else, text."""
    tensors, rest = {}, []
    leaves, spec = pytree.tree_flatten(values)
    for index, leaf in enumerate(leaves):
        array = np.asarray(leaf) if isinstance(leaf, Image.Image | np.ndarray) else None
        if isinstance(leaf, Tensor):
            tensors[f"value.{index}"] = leaf
        elif array is not None and array.dtype.kind in "biuf":
            tensors[f"value.{index}"] = torch.from_numpy(array.copy())
        else:
            rest.append(repr(leaf))
    return tensors, [*rest, str(spec)]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Save how far it has come, whole or not at all."""
    flat = {f"{name}/{layer}": item for name, of in checkpoint.statistics.items() for layer, item in of.items()}
    tensors = statistics_tensors(flat)
    layers = {key: statistics_header(item) for key, item in flat.items()}
    facts = {"runs": checkpoint.runs, "made": dict(checkpoint.made), "rows": dict(checkpoint.rows), "layers": layers}
    files.write_tensors(path, tensors, {"facts": json.dumps(facts), "fingerprint": files.fingerprint(tensors, facts)})


def read_checkpoint(path: Path | None) -> Checkpoint | None:
    """What was saved, or None if there is nothing or it is damaged (then calibration begins anew)."""
    if path is None or not path.exists():
        return None
    try:
        tensors, metadata = files.read_tensors(path)
        facts: dict[str, Any] = json.loads(metadata["facts"])
        if metadata["fingerprint"] != files.fingerprint(tensors, facts):
            return None
        statistics: dict[str, dict[str, LayerStatistics]] = {}
        for key, header in facts["layers"].items():
            name, _, layer = key.partition("/")
            statistics.setdefault(name, {})[layer] = to_statistics(key, header, tensors)
        return Checkpoint(facts["runs"], facts["made"], facts["rows"], statistics)
    except (ArtifactError, KeyError, ValueError):
        return None
