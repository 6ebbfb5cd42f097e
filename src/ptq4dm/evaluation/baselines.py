"""The float network on every engine that is here: what INT8 is measured against."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from torch import nn

from ptq4dm.errors import PTQ4DMError
from ptq4dm.pipelines.denoiser import Call

EAGER: Final = "eager"
FLOAT_ENGINES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "openvino": ("ptq4dm.backends.cpu.openvino", {}),
    "onnxruntime": ("ptq4dm.backends.cpu.onnxruntime", {}),
}
REWRITTEN: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "openvino, our graph": ("ptq4dm.backends.cpu.openvino", {"friendly": True})
}
"""FP32 with the graph rewritten as for INT8: what of the gain is the rewriting, not the INT8."""


def float_engines(
    network: nn.Module,
    example: Call,
    wrap: Callable[[str, Callable[[], nn.Module]], nn.Module] | None = None,
    rewritten: bool = False,
) -> tuple[dict[str, nn.Module], list[str]]:
    """The float network by engine ("eager" is PyTorch as diffusers runs it), and notes on engines that are not here.

    wrap: called with a name and the function that builds the engine, to watch the building (memory, time).
    rewritten: the graphs of `REWRITTEN` too.
    """
    watch = wrap or (lambda name, build: build())
    engines = {EAGER: watch(EAGER, lambda: network)}
    notes = []
    for name, (home, options) in (FLOAT_ENGINES | (REWRITTEN if rewritten else {})).items():
        try:
            compile_float = import_module(home).compile_float
            engines[name] = watch(name, lambda build=compile_float, options=options: build(network, example, **options))
        except PTQ4DMError as error:
            notes.append(f"FP32 on {name} was not measured: {error}")
    return engines, notes
