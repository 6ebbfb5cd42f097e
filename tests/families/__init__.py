"""Tiny pipelines of real diffusers classes with random weights: `from families import FAMILIES`. No downloads."""

from families import audio, cascades, image_transformers, pixels, stable_diffusion, video
from families.family import TinyFamily, modules, reloaded, run

GROUPS = (pixels, stable_diffusion, image_transformers, video, audio, cascades)
FAMILIES: dict[str, TinyFamily] = {family.name: family for group in GROUPS for family in group.FAMILIES}

__all__ = ["FAMILIES", "TinyFamily", "modules", "reloaded", "run"]
