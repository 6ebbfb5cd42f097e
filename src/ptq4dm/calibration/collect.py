"""Collect a calibration set, chunk by chunk, so that an interrupted collection resumes where it stopped."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptq4dm import files
from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.calibration.sources import NEEDS_PICTURES, SOURCES, Harvest, Order, require_finite, work
from ptq4dm.calibration.timesteps import draw_timesteps, resolve_law
from ptq4dm.errors import ArtifactError, CalibrationError, RecipeError
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.progress import progress
from ptq4dm.recipe import CalibrationRecipe, plain
from ptq4dm.zoo import zoo

LAW_STREAM, SAMPLE_STREAM, PICTURE_STREAM = 0, 1, 2


def collect(
    pipeline: Pipeline,
    recipe: CalibrationRecipe,
    cache: Path | None = None,
    shown: bool = True,
    pictures: Tensor | None = None,
) -> CalibrationSet:
    """Draw time-steps, then (x_t, t) at them, from the float model.

    cache: a folder for finished chunks of `recipe.batch_size` samples; a collection of the same model and recipe
    that finds chunks there reads them, and gives the same set to the last bit. pictures: (n, channels, height, width)
    in [-1, 1] for the sources that need x_0 (a built-in model brings its own). shown: a progress bar.
    Raises RecipeError, CalibrationError (no pictures, zero samples, NaN), ArtifactError (the cache cannot be written).
    """
    check(recipe)
    law = resolve_law(recipe.timesteps, recipe.law_options)
    rng = np.random.default_rng(stream(recipe.seed, LAW_STREAM))
    drawn = torch.from_numpy(draw_timesteps(law, recipe.samples, pipeline.num_train_timesteps, rng))
    x_0 = chosen_pictures(pipeline, recipe, pictures)
    model = pipeline.fingerprint
    folder = cache / cache_key(model, recipe, drawn, x_0) if cache is not None else None
    chunks: list[tuple[Harvest, float]] = []
    with progress("calibration", work(pipeline, recipe, drawn), shown) as done:
        for first in range(0, recipe.samples, recipe.batch_size):
            part = slice(first, first + recipe.batch_size)
            path = folder / f"chunk-{first:06d}.safetensors" if folder is not None else None
            chunk = read_chunk(path, len(drawn[part]))
            if chunk is None:
                seeds = tuple(sample_seed(recipe.seed, i) for i in range(recipe.samples)[part])
                order = Order(pipeline, recipe, drawn[part], seeds, None if x_0 is None else x_0[part])
                started = time.perf_counter()
                harvest = SOURCES[recipe.source](order, done)
                require_finite(harvest.x_t, f"x_t of source {recipe.source!r}")
                chunk = harvest, time.perf_counter() - started
                write_chunk(path, *chunk)
            else:
                done(work(pipeline, recipe, drawn[part]))
            chunks.append(chunk)
    harvests = [harvest for harvest, _ in chunks]
    facts = {
        "model": pipeline.name,
        "model_fingerprint": model,
        "source": recipe.source,
        "law": plain(recipe.timesteps),
        "law_options": plain(recipe.law_options),
        "sampler": recipe.sampler,
        "steps": recipe.steps,
        "seed": recipe.seed,
        "samples": recipe.samples,
        "calls_made": sum(harvest.calls_made for harvest in harvests),
        "calls_saved": sum(harvest.calls_saved for harvest in harvests),
        "seconds": round(sum(seconds for _, seconds in chunks), 3),
    }
    x_t = torch.cat([harvest.x_t for harvest in harvests])
    return CalibrationSet(x_t, torch.cat([harvest.timesteps for harvest in harvests]), drawn, facts)


def check(recipe: CalibrationRecipe) -> None:
    """Refuse a recipe that no collection can follow. Raises RecipeError, CalibrationError."""
    if recipe.source not in SOURCES:
        raise RecipeError(f"unknown calibration source {recipe.source!r}: accepted are {', '.join(SOURCES)}")
    if recipe.samples < 1:
        raise CalibrationError(f"samples = {recipe.samples}: a calibration set needs at least 1")
    if recipe.batch_size < 1:
        raise RecipeError(f"batch_size = {recipe.batch_size} should be at least 1")
    if recipe.seed < 0:
        raise RecipeError(f"seed = {recipe.seed} should be at least 0")


def chosen_pictures(pipeline: Pipeline, recipe: CalibrationRecipe, pictures: Tensor | None) -> Tensor | None:
    """One x_0 a sample, in a shuffled order that repeats only when all were used; None if the source needs none."""
    if recipe.source not in NEEDS_PICTURES:
        if pictures is not None:
            raise CalibrationError(
                f"pictures are given, and source {recipe.source!r} takes none: leave them out, or use a recipe with "
                f"source = {' or '.join(map(repr, NEEDS_PICTURES))}"
            )
        return None
    if pictures is None and pipeline.name in zoo.MODELS:
        pictures = zoo.pictures(pipeline.name)
    if not isinstance(pictures, Tensor | None):
        raise CalibrationError(
            f"pictures are a {type(pictures).__name__}: give a tensor (n, channels, height, width) in [-1, 1]"
        )
    if pictures is None or len(pictures) == 0:
        raise CalibrationError(f"source {recipe.source!r} needs pictures: give some, or use source 'denoising'")
    if tuple(pictures.shape[1:]) != pipeline.picture_shape:
        raise CalibrationError(
            f"pictures of shape {tuple(pictures.shape[1:])} for a model of {pipeline.picture_shape}: resize them"
        )
    require_finite(pictures, "pictures")
    if float(pictures.abs().amax()) > 1:
        raise CalibrationError(f"pictures reach {float(pictures.abs().amax()):g}: scale them to [-1, 1]")
    shuffled = np.random.default_rng(stream(recipe.seed, PICTURE_STREAM)).permutation(len(pictures))
    return pictures[torch.from_numpy(np.resize(shuffled, recipe.samples))].float()


def stream(seed: int, *key: int) -> np.random.SeedSequence:
    """An independent stream of random numbers of one seed."""
    return np.random.SeedSequence(seed, spawn_key=key)


def sample_seed(seed: int, index: int) -> int:
    """The seed of sample `index`, the same however many samples there are."""
    return int(stream(seed, SAMPLE_STREAM, index).generate_state(1, np.uint64)[0] >> np.uint64(1))


def cache_key(model: str, recipe: CalibrationRecipe, drawn: Tensor, x_0: Tensor | None) -> str:
    """What a chunk depends on: the model, the recipe, the time-steps that the law really drew, the pictures."""
    tensors = {"drawn": drawn} if x_0 is None else {"drawn": drawn, "x_0": x_0}
    return files.fingerprint(tensors, model, plain(asdict(recipe)))


def write_chunk(path: Path | None, harvest: Harvest, seconds: float) -> None:
    """Save a finished chunk, whole or not at all; nothing if there is no cache."""
    if path is None:
        return
    tensors = {"x_t": harvest.x_t, "timesteps": harvest.timesteps}
    facts = {"calls_made": harvest.calls_made, "calls_saved": harvest.calls_saved, "seconds": seconds}
    metadata = {"facts": json.dumps(facts), "fingerprint": files.fingerprint(tensors, facts)}
    files.write_tensors(path, tensors, metadata)


def read_chunk(path: Path | None, samples: int) -> tuple[Harvest, float] | None:
    """A finished chunk, or None if there is none or it is damaged (then it is collected again)."""
    if path is None or not path.exists():
        return None
    try:
        tensors, metadata = files.read_tensors(path)
        facts: dict[str, Any] = json.loads(metadata["facts"])
        if metadata["fingerprint"] != files.fingerprint(tensors, facts) or len(tensors["x_t"]) != samples:
            return None
        harvest = Harvest(tensors["x_t"], tensors["timesteps"], facts["calls_made"], facts["calls_saved"])
        return harvest, facts["seconds"]
    except (ArtifactError, KeyError, ValueError):
        return None
