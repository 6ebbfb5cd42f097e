"""The commands that repeat an evaluation, as one would type them."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ptq4dm.recipe import Recipe, load_recipe, preset_names
from ptq4dm.zoo import zoo

RECIPE: Final = "recipe.json"
FIRST_SEED: Final = 1_000_000
"""The seed of the first picture where `--seed 0` is given: far from the seeds of calibration."""


def commands(
    recipe: Recipe,
    model: str,
    artifact: Path | None,
    out: Path,
    seeds: Sequence[int],
    options: dict[str, Any],
    pictures: str | None = None,
) -> list[str]:
    """`ptq4dm quantize` and `ptq4dm evaluate` for these results.

    A recipe that is no preset (with other samples or seed at most) is named as the file that `out` holds.
    options: of `evaluate`, by name, without the dashes; True stands alone, None and False are left out.
    pictures: the folder that the calibration drew from, if it was told.
    """
    folder = f"{artifact or model}-int8" if artifact is None or str(artifact) in zoo.MODELS else str(artifact)
    quantize = ["ptq4dm", "quantize", model, *recipe_options(recipe, out)]
    quantize += [*(["--pictures", pictures] if pictures else []), "--out", folder]
    evaluate = ["ptq4dm", "evaluate", folder, "--count", str(len(seeds)), "--seed", str(seeds[0] - FIRST_SEED)]
    for name, value in options.items():
        if value is not None and value is not False:
            evaluate += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return [shlex.join(quantize), shlex.join([*evaluate, "--out", str(out)])]


def recipe_options(recipe: Recipe, out: Path) -> list[str]:
    """`--recipe` and what else was changed on the command line."""
    if recipe.name in preset_names():
        preset, own = load_recipe(recipe.name), recipe.calibration
        if preset.replace(calibration={"samples": own.samples, "seed": own.seed}).to_dict() == recipe.to_dict():
            changed = [key for key in ("samples", "seed") if getattr(own, key) != getattr(preset.calibration, key)]
            options = [part for key in changed for part in (f"--{key}", str(getattr(own, key)))]
            return ["--recipe", recipe.name, *options]
    return ["--recipe", str(out / RECIPE)]
