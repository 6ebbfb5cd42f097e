"""Tiny pipelines of real diffusers classes with random weights, so that the examples run offline (the tests' own)."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from families import FAMILIES

from ptq4dm import Recipe, load_recipe


def tiny_pipeline(name: str) -> tuple[Any, dict[str, Any], Recipe]:
    """A pipeline, the size that it draws, as arguments of its call (a real one knows its size: {}), and a recipe that
    takes seconds."""
    sizes = ("height", "width", "num_frames", "max_sequence_length")
    given = {key: value for key, value in FAMILIES[name].inputs(1).items() if key in sizes}
    recipe = load_recipe("w8a8").replace(calibration={"samples": 4, "steps": 8, "batch_size": 2})
    return FAMILIES[name].build(), given, recipe
