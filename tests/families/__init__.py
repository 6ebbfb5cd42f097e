"""Tiny pipelines of real diffusers classes with random weights: `from families import FAMILIES`. No downloads."""

from families import image_transformers, pixels, stable_diffusion
from families.family import TinyFamily, modules, run

FAMILIES: dict[str, TinyFamily] = {
    family.name: family for group in (pixels, stable_diffusion, image_transformers) for family in group.FAMILIES
}

__all__ = ["FAMILIES", "TinyFamily", "modules", "run"]
