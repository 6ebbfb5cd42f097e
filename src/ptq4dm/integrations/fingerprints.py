"""The fingerprint of a network's tensors in the metadata of the safetensors files that they are saved in."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ptq4dm import files
from ptq4dm.errors import ArtifactError

KEY = "ptq4dm"


def fingerprint_metadata(tensors: dict[str, Tensor]) -> dict[str, str]:
    """The metadata entry for some tensors; every shard carries that of all."""
    return {KEY: files.fingerprint(tensors)}


def empty_tensors(paths: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of safetensors files without their values, on the meta device."""
    found = {}
    for path in paths:
        if path.endswith(".safetensors"):
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                found |= {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names}
    return found


def check_fingerprint(paths: Sequence[str]) -> None:
    """Raise ArtifactError unless safetensors files hold what was saved to them, shards together.

    Files without a fingerprint (of a diffusers that could not write it, or pickled ones) are not checked.
    """
    found: set[str] = set()
    tensors: dict[str, Tensor] = {}
    safe = [Path(path) for path in paths if str(path).endswith(".safetensors")]
    for path in safe:
        held, metadata = files.read_tensors(path)
        tensors |= held
        found |= {metadata[KEY]} if KEY in metadata else set()
    if found and found != {files.fingerprint(tensors)}:
        raise ArtifactError(f"{safe[0]} is not what was saved (fingerprint differs): quantize again")
