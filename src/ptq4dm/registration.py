"""Make diffusers know ptq4dm's artifacts, without importing diffusers before the user does.

diffusers has no function to register a quantizer: its two mapping dicts are written. They are written when
`diffusers.quantizers.auto` is imported, or at once if it has been.
"""

import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

from ptq4dm.errors import BackendWarning

HOME: Final = "diffusers.quantizers.auto"
METHOD: Final = "ptq4dm"
TELLING: Final = "ptq4dm (`import ptq4dm` before loading; pip install ptq4dm)"
"""The method as the config of a saved network names it: where ptq4dm was not imported, diffusers' error shows this name
and nothing else of the config. In those saved before, the name is `METHOD`."""
METHODS: Final = (METHOD, TELLING)
MAPPINGS: Final = ("AUTO_QUANTIZER_MAPPING", "AUTO_QUANTIZATION_CONFIG_MAPPING")


def register_with_diffusers() -> None:
    """Register now if diffusers' quantizers are imported already, else when they are. A second call changes nothing."""
    if HOME in sys.modules:
        write_mappings(sys.modules[HOME])
    elif not any(isinstance(finder, AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, AfterImport())


class AfterImport(MetaPathFinder):
    """Finds `diffusers.quantizers.auto` as it would be found without, and writes its mappings when it was run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of diffusers' module with a loader that registers after it; None for every other module."""
        if fullname != HOME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            run(module)
            write_mappings(module)

        spec.loader.exec_module = run_and_register
        return spec


def write_mappings(module: ModuleType) -> None:
    """Enter the quantizer and its config into diffusers' mapping dicts; warn if this diffusers has none."""
    missing = [name for name in MAPPINGS if not isinstance(getattr(module, name, None), dict)]
    if missing:
        warnings.warn(
            f"this version of diffusers has no {' and '.join(missing)}, so its from_pretrained does not know INT8 "
            "artifacts of ptq4dm: open them with ptq4dm.load(folder).to_pipeline()",
            BackendWarning,
            stacklevel=2,
        )
        return
    from ptq4dm.integrations.config import PTQ4DMConfig
    from ptq4dm.integrations.quantizer import PTQ4DMQuantizer

    for name, entry in zip(MAPPINGS, (PTQ4DMQuantizer, PTQ4DMConfig), strict=True):
        getattr(module, name).update(dict.fromkeys(METHODS, entry))
