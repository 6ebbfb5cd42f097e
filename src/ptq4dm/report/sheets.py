"""Picture sheets of a results folder as embedded images: float, INT8, and where they differ."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from ptq4dm.errors import ArtifactError

SHOWN: Final = 16
LONGEST_SIDE: Final = 128
STEPS: Final = (4, 8, 16, 32, 64, 128, 255)
"""Full scales of the difference, in steps of 1/255."""
RAMP: Final = np.array([[255, 255, 255], [255, 205, 120], [238, 102, 68], [160, 25, 92], [45, 8, 66]], dtype=float)
"""Colours of a difference from none to full scale; white stands for none on the pictures' own white ground."""


@dataclass(frozen=True)
class Pair:
    """One seed drawn by both models; images as data URIs."""

    label: str
    seed: str
    psnr: float | None
    float: str
    int8: str
    difference: str


@dataclass(frozen=True)
class Gallery:
    """What the page shows of the pictures. float, int8, difference: sheets as data URIs; full_scale: of 255."""

    float: str
    int8: str
    difference: str
    width: int
    height: int
    shown: int
    total: int
    full_scale: int
    pairs: tuple[Pair, ...]


def make_gallery(folder: Path, pictures: Mapping[str, Any], psnr: Sequence[float | None]) -> Gallery:
    """Read the two sheets that `pictures` names and make what the page shows. Raises ArtifactError."""
    tiles = {key: read_tiles(folder / pictures[key], pictures) for key in ("float", "int8")}
    difference = np.abs(tiles["float"].astype(int) - tiles["int8"].astype(int)).max(axis=3)
    full_scale = next(step for step in STEPS if step >= np.percentile(difference, 99.5) or step == STEPS[-1])
    tiles["difference"] = coloured(difference, full_scale)
    total = len(difference)
    shown = min(SHOWN, total)
    columns = 4 if shown >= 4 else shown
    scale = max(1, LONGEST_SIDE // max(pictures["tile"]))
    grids = {key: enlarged(sheet(value[:shown], columns), scale, key) for key, value in tiles.items()}
    seeds = pictures.get("seeds") or []
    pairs = tuple(
        Pair(
            label,
            str(seeds[index]) if index < len(seeds) else str(index),
            psnr[index],
            *(data_uri(enlarged(tiles[key][index], scale, key)) for key in ("float", "int8", "difference")),
        )
        for label, index in chosen(psnr[:total])
    )
    width, height = grids["float"].size
    uris = {key: data_uri(value) for key, value in grids.items()}
    return Gallery(**uris, width=width, height=height, shown=shown, total=total, full_scale=full_scale, pairs=pairs)


def read_tiles(path: Path, pictures: Mapping[str, Any]) -> np.ndarray:
    """The tiles of a sheet, uint8 (count, height, width, 3). Raises ArtifactError: missing, damaged, too small."""
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: the results folder is not complete; evaluate again")
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ArtifactError(f"{path} cannot be read as a picture ({error}): evaluate again") from error
    width, height = (int(side) for side in pictures["tile"])
    columns, count = int(pictures["columns"]), int(pictures["count"])
    rows = -(-count // max(columns, 1))
    if min(width, height, columns, count) < 1 or pixels.shape[0] < rows * height or pixels.shape[1] < columns * width:
        raise ArtifactError(
            f"{path} has {pixels.shape[1]}x{pixels.shape[0]} pixels, too few for {count} tiles of {width}x{height} in "
            f"{columns} columns: evaluate again"
        )
    grid = pixels[: rows * height, : columns * width].reshape(rows, height, columns, width, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(-1, height, width, 3)[:count]


def sheet(tiles: np.ndarray, columns: int) -> np.ndarray:
    """Tiles (n, h, w, 3) side by side, `columns` to a row; places left over are white."""
    count, height, width, _ = tiles.shape
    rows = -(-count // columns)
    blank = np.full((rows * columns - count, height, width, 3), 255, dtype=np.uint8)
    grid = np.concatenate([tiles, blank]).reshape(rows, columns, height, width, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)


def coloured(difference: np.ndarray, full_scale: int) -> np.ndarray:
    """Differences (n, h, w) in steps of 1/255 as colours of RAMP, uint8 (n, h, w, 3)."""
    place = np.clip(difference / full_scale, 0, 1)
    stops = np.linspace(0, 1, len(RAMP))
    return (
        np.stack([np.interp(place, stops, RAMP[:, channel]) for channel in range(3)], axis=-1).round().astype(np.uint8)
    )


def enlarged(pixels: np.ndarray, scale: int, key: str) -> Image.Image:
    """Pictures smoothly; differences as they are, for the page to show pixel by pixel."""
    image = Image.fromarray(pixels)
    if key == "difference":
        return image
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS)


def chosen(psnr: Sequence[float | None]) -> list[tuple[str, int]]:
    """The closest, the middle and the farthest pair, by PSNR; an identical pair (None) is the closest."""
    if len(psnr) < 3:
        return []
    order = sorted(range(len(psnr)), key=lambda index: float("inf") if psnr[index] is None else float(psnr[index] or 0))
    return [("farthest", order[0]), ("middle", order[len(order) // 2]), ("closest", order[-1])]


def data_uri(image: Image.Image) -> str:
    """A picture as a lossless data URI."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def ramp_css() -> str:
    """The colours of RAMP as a CSS gradient."""
    return f"linear-gradient(90deg, {', '.join('#' + bytes(stop.astype(np.uint8)).hex() for stop in RAMP)})"
