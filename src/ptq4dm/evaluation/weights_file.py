"""Read foreign weights: checksum first, tensors only, nothing unpickled."""

import hashlib
import pickle
from pathlib import Path

import torch
from torch import Tensor

from ptq4dm.errors import EvaluationError


def read_state_dict(path: Path, sha256: str, what: str) -> dict[str, Tensor]:
    """The tensors of a PyTorch weights file. Raises EvaluationError if it is missing, or not the file expected."""
    if not path.is_file():
        raise EvaluationError(f"no {what} weights at {path}: name the weights file")
    try:
        found = file_sha256(path)
    except OSError as error:
        why = error.strerror or error
        raise EvaluationError(f"{what} weights {path} cannot be read: {why}: name a file that you may read") from error
    if found != sha256:
        raise EvaluationError(
            f"{path} is not the {what} weights file: its SHA-256 is {found}, expected {sha256}; get the file again"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise EvaluationError(f"{path} holds no plain {what} tensors: {error}") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
