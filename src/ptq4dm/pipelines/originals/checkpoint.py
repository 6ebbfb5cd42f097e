"""Read a foreign checkpoint file: tensors only, nothing in it is executed, every fault said in one line."""

import pickle
import warnings
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ptq4dm.errors import ModelError
from ptq4dm.pipelines.loading import FAULTS, one_line

WRAPPER: Final = "module."
"""What DataParallel puts before every name."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights in a file of torch.save or safetensors, by their original names, float32. Raises ModelError.

    Of a training checkpoint of the DDIM code, a list that ends with the averaged weights, those are taken.
    """
    tensors = state_dict(read(path))
    if not tensors:
        raise ModelError(f"{path} holds no state dict: save one of tensors alone, torch.save(model.state_dict(), path)")
    if all(name.startswith(WRAPPER) for name in tensors):
        tensors = {name.removeprefix(WRAPPER): tensor for name, tensor in tensors.items()}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def read(path: Path) -> Any:
    """What a file holds, if it is plain data and tensors. Raises ModelError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old pickle protocol is no news to the user
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is no checkpoint of plain tensors (truncated, another kind of file, or pickled code, which is "
            "never run): get it again, or save the network's state_dict() alone"
        ) from error
    except (*FAULTS, SafetensorError, EOFError) as error:
        raise ModelError(
            f"{path} is truncated, damaged or no checkpoint ({one_line(error)}): get the file again"
        ) from error


def state_dict(held: Any) -> dict[str, Tensor]:
    """The weights in what a file holds; {} if there are none."""
    for part in reversed(held) if isinstance(held, list | tuple) else [held]:
        if isinstance(part, dict) and part and all(isinstance(value, Tensor) for value in part.values()):
            return {str(name): value for name, value in part.items()}
    return {}
