"""The sections of results.json that need more than a call: fidelity, distances from the data, what ran."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ptq4dm.backends.cpu.engine import Engine
from ptq4dm.errors import MissingDependencyError
from ptq4dm.evaluation.bootstrap import mean_interval
from ptq4dm.evaluation.distribution import distribution
from ptq4dm.evaluation.features import Extractor, feature_distance, make_extractor
from ptq4dm.evaluation.fidelity import FloatWalk, mean_db, picture_psnr
from ptq4dm.zoo import zoo

SIMULATED: Final = "simulated"
AIMS: Final = {"relative_l2_mean": 0.022, "psnr_mean": 52.0, "pictures_psnr_mean": 30.0}
FLOORS: Final = {"relative_l2_mean": 0.023, "psnr_mean": 51.5, "pictures_psnr_mean": 29.5}
AIMED_AT: Final = ("emoji-32", "ddim", 50)
"""The model, sampler and steps that the aims and floors are for."""


def find_extractors(features: bool, inception: Path | None) -> tuple[list[Extractor], list[str]]:
    """The offline extractor (needed only if features are asked for), and Inception if its weights are given."""
    extractors, notes = [], []
    try:
        extractors.append(make_extractor())
    except MissingDependencyError as error:
        if features:
            raise
        notes.append(f"No perceptual distance: {error}")
    if inception is not None:
        extractors.append(make_extractor(inception))
    return extractors, notes


def fidelity(
    walk: FloatWalk, drawn: dict[str, Tensor], engine: str, sampler: str, steps: int, extractors: Sequence[Extractor]
) -> dict[str, Any]:
    """The section `fidelity`: the deployed network call by call and picture by picture, the simulated one beside."""
    decibels = picture_psnr(drawn["float"], drawn["int8"])
    finite = decibels[torch.isfinite(decibels)]
    pictures: dict[str, Any] = {
        "n": len(decibels),
        "psnr_mean": mean_db(decibels),
        "psnr": [float(value) if torch.isfinite(value) else None for value in decibels],
        "identical": len(decibels) - len(finite),
    }
    if len(finite) > 1:
        interval = mean_interval(finite.numpy())
        pictures["psnr_interval"] = [interval.low, interval.high]
    if extractors:
        distances = feature_distance(extractors[0], drawn["float"], drawn["int8"])
        pictures["perceptual_mean"] = float(distances.mean())
        pictures["perceptual"] = distances.tolist()
        others = feature_distance(extractors[0], drawn["float"], drawn["float"].roll(1, 0))
        pictures["perceptual_between_pictures"] = float(others.mean())
        pictures["perceptual_name"] = f"normalised multi-layer feature distance ({extractors[0].name})"
    simulated = walk.errors.get(SIMULATED, walk.errors["int8"]).to_dict()
    psnr = mean_db(picture_psnr(drawn["float"], drawn.get(SIMULATED, drawn["int8"])))
    return {
        "backend": engine,
        "sampler": sampler,
        "steps": steps,
        "call": walk.errors["int8"].to_dict(),
        "pictures": pictures,
        "simulated": {**simulated, "pictures_psnr_mean": psnr},
    }


def aims(name: str, sampler: str, steps: int) -> dict[str, Any]:
    """Aims and floors, where there are some for this model and sampler."""
    return {"aims": AIMS, "floors": FLOORS} if (name, sampler, steps) == AIMED_AT else {}


def distributions(
    extractors: Sequence[Extractor],
    features: bool,
    drawn: dict[str, Tensor],
    name: str,
    reference: Tensor | None,
    notes: list[str],
    shown: bool,
) -> dict[str, Any] | None:
    """The section `distribution`: the rows of every extractor; None (and a note) without data to compare with."""
    wanted = [extractor for extractor in extractors if features or extractor.standard]
    if not wanted:
        return None
    if reference is None and name not in zoo.MODELS:
        notes.append(f"No distances from the data: {name} carries none; give the reference pictures")
        return None
    data = reference if reference is not None else (zoo.pictures(name) / 2 + 0.5).clamp(0, 1)
    what = "pictures" if reference is not None else "training pictures"
    sections = [distribution(item, drawn["float"], drawn["int8"], data, what, shown=shown) for item in wanted]
    names = ", ".join(section["extractor"] for section in sections)
    return {**sections[0], "extractor": names, "rows": [row for section in sections for row in section["rows"]]}


def executed(deployed: nn.Module, engine: str) -> dict[str, Any] | None:
    """What the engine says it ran for each layer, or what was chosen for each where layers have kernels of their own;
    None for a backend without either."""
    chosen = vars(deployed).get("ptq4dm_layers")
    if chosen is not None:
        return {"engine": engine, "layers": [dataclasses.asdict(layer) for layer in chosen]}
    run = getattr(deployed, "ptq4dm_engine", None)
    if not isinstance(run, Engine):
        return None
    return {"engine": engine, "layers": [dataclasses.asdict(layer) for layer in run.executed]}
