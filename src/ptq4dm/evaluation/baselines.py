"""The float network on every engine that is here: what INT8 is measured against."""

from collections.abc import Callable
from importlib import import_module

from torch import nn

from ptq4dm.errors import PTQ4DMError
from ptq4dm.pipelines.denoiser import Call

EAGER = "eager"
FLOAT_ENGINES = {"openvino": "ptq4dm.backends.cpu.openvino", "onnxruntime": "ptq4dm.backends.cpu.onnxruntime"}


def float_engines(
    network: nn.Module, example: Call, wrap: Callable[[str, Callable[[], nn.Module]], nn.Module] | None = None
) -> tuple[dict[str, nn.Module], list[str]]:
    """The float network by engine ("eager" is PyTorch as diffusers runs it), and notes on engines that are not here.

    wrap: called with a name and the function that builds the engine, to watch the building (memory, time).
    """
    wrap = wrap or (lambda name, build: build())
    engines = {EAGER: wrap(EAGER, lambda: network)}
    notes = []
    for name, home in FLOAT_ENGINES.items():
        try:
            compile_float = import_module(home).compile_float
            engines[name] = wrap(name, lambda build=compile_float: build(network, example))
        except PTQ4DMError as error:
            notes.append(f"FP32 on {name} was not measured: {error}")
    return engines, notes
