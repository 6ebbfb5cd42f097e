"""Pictures from a folder of image files, in the shape that a model draws."""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ptq4dm.errors import EvaluationError

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MODES: Final = {1: "L", 3: "RGB"}


def read_pictures(folder: str | Path, picture_shape: tuple[int, ...]) -> Tensor:
    """All image files of `folder` in the order of their names, (n, channels, height, width), float32 in [0, 1].

    picture_shape: (channels, height, width), with 1 or 3 channels; pictures of another size are refused, since how
    they are resized would change every distance. Raises EvaluationError.
    """
    channels, height, width = picture_shape
    if channels not in MODES:
        raise EvaluationError(f"a model of {channels} channels draws no image files: give tensors from Python")
    paths = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in SUFFIXES) if Path(folder).is_dir() else []
    if not paths:
        raise EvaluationError(f"{folder} is no folder with image files ({', '.join(SUFFIXES)})")
    return torch.stack([read_picture(path, MODES[channels], (width, height)) for path in paths])


def read_picture(path: Path, mode: str, size: tuple[int, int]) -> Tensor:
    """One image file as (channels, height, width) in [0, 1]. Raises EvaluationError."""
    try:
        with Image.open(path) as image:
            if image.size != size:
                found, wanted = (f"{w}x{h}" for w, h in (image.size, size))
                raise EvaluationError(f"{path} is {found}, the model draws {wanted}: resize the pictures first")
            pixels = np.asarray(image.convert(mode), dtype=np.float32) / 255
    except (UnidentifiedImageError, OSError) as error:
        raise EvaluationError(f"{path} cannot be read as a picture: {error}") from error
    return torch.from_numpy(pixels.reshape(size[1], size[0], -1)).permute(2, 0, 1)
