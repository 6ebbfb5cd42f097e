"""The classes that a pipeline folder may name: those of diffusers, and the few that ptq4dm adds to them."""

from typing import Any, Final

import diffusers

from ptq4dm.errors import ModelError
from ptq4dm.pipelines.class_conditional import ClassConditionalDDPMPipeline
from ptq4dm.pipelines.fixed_heads import FixedHeadsUNet2DModel

OWN: Final[dict[str, type]] = {kind.__name__: kind for kind in (FixedHeadsUNet2DModel, ClassConditionalDDPMPipeline)}
"""ptq4dm's own, which diffusers imports from the module that a folder names beside them."""
COMMON: Final = (diffusers.DiffusionPipeline, diffusers.ModelMixin)
"""What pipelines and networks are derived from."""
LIBRARIES: Final = ("diffusers", "transformers", FixedHeadsUNet2DModel.__module__)
"""Where the classes of a folder may come from, beside the modules of `diffusers.pipelines`; no others."""


def find_class(name: Any) -> Any:
    """A class of diffusers, or of ptq4dm's own, by name; None if there is none."""
    found = OWN.get(str(name), getattr(diffusers, str(name), None))
    return found if isinstance(found, type) else None


def is_library(name: Any) -> bool:
    """Whether a folder may name a library as the home of a part: `stable_diffusion`, which has the safety checker, is
    one of diffusers' own."""
    return name in LIBRARIES or (isinstance(name, str) and name.isidentifier() and hasattr(diffusers.pipelines, name))


def class_of_part(library: str, name: Any) -> Any:
    """The class of a part by what a folder says of it, where `is_library` allows it; None if there is none, or if it is
    one of transformers, which diffusers imports."""
    if library == "transformers":
        return None
    home = None if library in LIBRARIES else getattr(diffusers.pipelines, library)
    found = find_class(name) if home is None else getattr(home, str(name), None)
    return found if isinstance(found, type) else None


def public_class(part: Any) -> type:
    """The class that `part` is, or is derived from, of those that a folder may name. Raises ModelError.

    A class of the user's own is not loaded from a folder, so its public base stands for it; what all pipelines and all
    networks are derived from says nothing.
    """
    for kind in type(part).__mro__:
        if find_class(kind.__name__) is kind and any(base in COMMON for base in kind.__mro__[1:]):
            return kind
    raise ModelError(
        f"{type(part).__name__} is no class of diffusers {diffusers.__version__}, nor derived from one, by which a "
        "folder could name it"
    )


def library_of(kind: type) -> str:
    """What a folder's index names as the home of a public class."""
    return kind.__module__ if kind in OWN.values() else "diffusers"
