"""The layers whose rounding harms the output most, found once a study and kept in its folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torch import nn

from ptq4dm.errors import ArtifactError
from ptq4dm.files import read_json, write_json
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.bisection import shares_within
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.macs import count_macs
from ptq4dm.quantization.sensitivity import best_in_float
from ptq4dm.studies.integer_products import integer_products

QUICK_CALLS: Final = 48
"""Calls that a quick study may make to find them."""


def find_sensitive(
    path: Path,
    network: nn.Module,
    layers: Callable[[], Mapping[str, QuantizedLayer]],
    calls: Sequence[Call],
    float_share: float,
    limit: int | None,
    shown: bool,
) -> dict[str, Any]:
    """`shares`: each layer's share of the output's squared error. `left_in_float`: those that are kept out of INT8 for
    theirs, with the reason. What was found before is read from `path`."""
    try:
        return read_json(path)
    except ArtifactError:  # not measured yet, or damaged
        pass
    rounded = layers()
    with integer_products(rounded.values()):
        shares, _ = shares_within(network, rounded, calls, limit, shown)
    found = {"shares": shares, "left_in_float": best_in_float(shares, count_macs(network, calls[0]), float_share)}
    write_json(path, found)
    return found
