"""Pictures as sheets of tiles in one PNG."""

import math
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ptq4dm.errors import EvaluationError
from ptq4dm.files import new_file


def write_sheet(path: Path, pictures: Tensor, columns: int) -> None:
    """Write pictures (n, 1 or 3, h, w) in [0, 1] as a PNG, row by row, `columns` tiles to a row, no gaps."""
    pixels = sheet(pictures, columns)
    with new_file(path) as building:
        Image.fromarray(pixels).save(building, format="PNG", optimize=True)


def is_picture(path: Path) -> bool:
    """Whether a file is there and holds a whole picture."""
    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        return False
    return True


def sheet(pictures: Tensor, columns: int) -> np.ndarray:
    """The pixels of a sheet, uint8 (rows * h, columns * w, 3); places without a picture are white."""
    if pictures.dim() != 4 or pictures.shape[1] not in (1, 3) or columns < 1:
        raise EvaluationError(
            f"a sheet of {columns} columns of {tuple(pictures.shape)}: accepted are (n, 1 or 3, h, w)"
        )
    count, _, height, width = pictures.shape
    rows = math.ceil(count / columns)
    tiles = (pictures.expand(-1, 3, -1, -1).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    blank = np.full((rows * columns - count, height, width, 3), 255, dtype=np.uint8)
    grid = np.concatenate([tiles, blank]).reshape(rows, columns, height, width, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
