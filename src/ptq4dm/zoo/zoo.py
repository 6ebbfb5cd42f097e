"""The built-in pretrained models, by name: their weights, their INT8 artifacts, their training pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ptq4dm.errors import ModelError


@dataclass(frozen=True)
class ZooModel:
    """One built-in model. folder: where its data lies. size: pictures are size x size. columns: of the sprite sheet."""

    folder: Path
    description: str
    size: int
    columns: int


MODELS: Final[dict[str, ZooModel]] = {
    "emoji-32": ZooModel(
        folder=Path(__file__).parent / "emoji_32",
        description="unconditional 32x32 RGB DDPM of Fluent Emoji 3D",
        size=32,
        columns=24,
    ),
}


def zoo_model(name: str) -> ZooModel:
    """The built-in model called `name`. Raises ModelError that lists the names."""
    if name not in MODELS:
        raise ModelError(f"no built-in model {name!r}: accepted are {', '.join(MODELS)}")
    return MODELS[name]


def model_folder(name: str) -> Path:
    """The float diffusers pipeline of a built-in model. Raises ModelError."""
    return carried(zoo_model(name).folder / "pipeline", name)


def int8_folder(name: str) -> Path:
    """The INT8 artifact of a built-in model, made with the default recipe. Raises ModelError."""
    return carried(zoo_model(name).folder / "int8", name)


def pictures(name: str) -> Tensor:
    """The training pictures of a built-in model: (pictures, 3, size, size), float32 in [-1, 1], in file order.

    They lie in one lossless sprite sheet, row by row; the text file beside it names them, one a line.
    Raises ModelError.
    """
    model = zoo_model(name)
    sheet_path = carried(model.folder / "pictures.png", name)
    names = carried(model.folder / "pictures.txt", name).read_text().split()
    with Image.open(sheet_path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    rows, size = pixels.shape[0] // model.size, model.size
    tiles = pixels.reshape(rows, size, model.columns, size, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, size, size)
    return torch.from_numpy(tiles[: len(names)].astype(np.float32) / 127.5 - 1.0)


def carried(path: Path, name: str) -> Path:
    """`path`, if this installation carries it. Raises ModelError."""
    if not path.exists():
        raise ModelError(f"this installation lacks a part of {name} ({path}): install ptq4dm again")
    return path
