"""CalibrationSet: the (x_t, t) that the ranges are measured on, with how they were made; immutable, saved, checked."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ptq4dm import files
from ptq4dm.errors import ArtifactError, CalibrationError
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.pipelines.pipeline import Pipeline

FORMAT: Final = "ptq4dm.calibration_set"
FORMAT_VERSION: Final = 1
NOT_IDENTITY: Final = ("seconds",)
"""Facts that differ between two runs with the same result."""


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Inputs of the network, one time-step each.

    x_t: (samples, channels, height, width) float32. timesteps: (samples,), the visited time-step of each x_t.
    drawn: (samples,) int64, as the law drew it. facts: JSON data: model, model_fingerprint, source, law, law_options,
    sampler, steps, seed, samples, calls_made, calls_saved, seconds.
    Raises CalibrationError: no samples, lengths that differ, NaN or infinity.
    """

    x_t: Tensor
    timesteps: Tensor
    drawn: Tensor
    facts: dict[str, Any]

    def __post_init__(self):
        samples = len(self.x_t) if self.x_t.dim() else 0
        if samples == 0:
            raise CalibrationError("a calibration set of zero samples: give at least 1")
        if self.timesteps.shape != (samples,) or self.drawn.shape != (samples,):
            raise CalibrationError(
                f"{samples} x_t with time-steps of shape {tuple(self.timesteps.shape)} (drawn: "
                f"{tuple(self.drawn.shape)}): give one time-step a sample"
            )
        for name, tensor in self.tensors().items():
            broken = ~torch.isfinite(tensor).flatten(1 if tensor.dim() > 1 else 0)
            if broken.any():
                rows = broken.any(1) if broken.dim() > 1 else broken
                raise CalibrationError(
                    f"{name} of {int(rows.sum())} of {samples} samples holds NaN or infinity: check the model"
                )

    def __len__(self) -> int:
        return len(self.x_t)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, as saved."""
        return {"x_t": self.x_t, "timesteps": self.timesteps, "drawn": self.drawn}

    @property
    def fingerprint(self) -> str:
        """Of the tensors and of every fact but the time it took, so that equal runs have equal fingerprints."""
        facts = {key: value for key, value in self.facts.items() if key not in NOT_IDENTITY}
        return files.fingerprint(self.tensors(), facts)

    def calls(self, batch_size: int) -> Iterator[tuple[Call, Tensor]]:
        """The calls to make with it, in order: each Call and the (batch,) time-steps of its samples."""
        for first in range(0, len(self), batch_size):
            timesteps = self.timesteps[first : first + batch_size]
            yield Call((self.x_t[first : first + batch_size], timesteps)), timesteps

    def check_model(self, pipeline: Pipeline) -> None:
        """Raise CalibrationError if the set was collected from another model than `pipeline`."""
        own, other = self.facts.get("model_fingerprint"), pipeline.fingerprint
        if own != other:
            raise CalibrationError(
                f"the calibration set is of another model: it was collected from {self.facts.get('model')} "
                f"({own}), and this is {pipeline.name} ({other}); collect it again"
            )
        if tuple(self.x_t.shape[1:]) != pipeline.picture_shape:
            raise CalibrationError(
                f"the calibration set holds x_t of {tuple(self.x_t.shape[1:])}, {pipeline.name} takes "
                f"{pipeline.picture_shape}; collect it again"
            )
        low, high = float(self.timesteps.min()), float(self.timesteps.max())
        if low < 0 or high > pipeline.num_train_timesteps - 1:
            raise CalibrationError(
                f"the calibration set has time-steps from {low:g} to {high:g}, {pipeline.name} has 0 to "
                f"{pipeline.num_train_timesteps - 1}; collect it again"
            )

    def save(self, path: str | Path) -> None:
        """Write the set to one safetensors file, whole or not at all. Raises ArtifactError."""
        metadata = {
            "format": FORMAT,
            "format_version": str(FORMAT_VERSION),
            "fingerprint": self.fingerprint,
            "facts": json.dumps(self.facts),
        }
        files.write_tensors(Path(path), self.tensors(), metadata)

    @staticmethod
    def load(path: str | Path) -> "CalibrationSet":
        """Read a saved set. Raises ArtifactError: missing, damaged, tampered with, no calibration set, newer format."""
        tensors, metadata = files.read_tensors(Path(path))
        if metadata.get("format") != FORMAT:
            raise ArtifactError(f"{path} is no calibration set: give a file that CalibrationSet.save wrote")
        if metadata.get("format_version") != str(FORMAT_VERSION):
            raise ArtifactError(
                f"{path} has calibration-set format {metadata.get('format_version')}, and this ptq4dm reads "
                f"{FORMAT_VERSION}: update ptq4dm, or collect the set again"
            )
        try:
            loaded = CalibrationSet(**tensors, facts=json.loads(metadata["facts"]))
        except (KeyError, TypeError, AttributeError, ValueError, CalibrationError) as error:
            raise ArtifactError(f"{path} is damaged ({error}): collect the set again") from error
        if loaded.fingerprint != metadata.get("fingerprint"):
            raise ArtifactError(
                f"{path} was changed after it was written: its fingerprint is {loaded.fingerprint}, "
                f"recorded was {metadata.get('fingerprint')}; collect the set again"
            )
        return loaded
