"""Tiny pipelines of real diffusers classes with random weights, so that the examples run offline (the tests' own)."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from families import FAMILIES


def tiny_pipeline(name: str) -> tuple[Any, dict[str, Any]]:
    """A pipeline and the size that it draws, as arguments of its call; a real one knows its size: {}."""
    sizes = ("height", "width", "num_frames", "max_sequence_length")
    given = {key: value for key, value in FAMILIES[name].inputs(1).items() if key in sizes}
    return FAMILIES[name].build(), given
