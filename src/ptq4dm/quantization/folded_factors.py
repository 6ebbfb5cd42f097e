"""The smoothing factors that were folded into layers, saved beside an artifact's networks.

No layer of the quantized network holds them any more; whoever puts its ranges on another float checkpoint folds them
into that one too (`PTQ4DMConfig(calibrated=...)`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import Tensor

from ptq4dm import files
from ptq4dm.errors import ArtifactError

FILE: Final = "folded.safetensors"


def write_factors(folder: Path, factors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write the factors, (channels,) by denoiser and layer in front; no file where there are none."""
    tensors = {f"{name}/{front}": item for name, of in factors.items() for front, item in of.items()}
    if tensors:
        copies = {key: item.detach().cpu().clone() for key, item in tensors.items()}
        files.write_tensors(folder / FILE, copies, {"ptq4dm": files.fingerprint(copies)})


def read_factors(folder: Path, denoiser: str) -> dict[str, Tensor]:
    """Those of one denoiser; {} if none were saved. Raises ArtifactError: not what was saved."""
    if not (folder / FILE).exists():
        return {}
    tensors, metadata = files.read_tensors(folder / FILE)
    if metadata.get("ptq4dm") != files.fingerprint(tensors):
        raise ArtifactError(f"{folder / FILE} is not what was saved (fingerprint differs): quantize again")
    own = f"{denoiser}/"
    return {key.removeprefix(own): item for key, item in tensors.items() if key.startswith(own)}
