import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ptq4dm.errors import ArtifactError
from ptq4dm.report.sheets import RAMP, chosen, coloured, make_gallery, read_tiles, sheet

PICTURES = {"float": "float.png", "int8": "int8.png", "tile": [5, 4], "columns": 3, "count": 7}


def save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


def test_tiles_are_cut_where_they_lie(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 15, 3), dtype=np.uint8)
    save(tmp_path / "float.png", pixels)
    tiles = read_tiles(tmp_path / "float.png", PICTURES)
    assert tiles.shape == (7, 4, 5, 3)
    for index in range(7):
        row, column = divmod(index, 3)
        np.testing.assert_array_equal(tiles[index], pixels[4 * row : 4 * row + 4, 5 * column : 5 * column + 5])
    np.testing.assert_array_equal(sheet(tiles, 3)[:8], pixels[:8])


def test_a_difference_of_one_pixel_is_seen_there_and_nowhere_else(tmp_path: Path) -> None:
    pixels = np.full((12, 15, 3), 200, dtype=np.uint8)
    save(tmp_path / "float.png", pixels)
    changed = pixels.copy()
    changed[5, 12, 1] -= 90  # row 1, column 2: tile 5, at (1, 2)
    save(tmp_path / "int8.png", changed)
    gallery = make_gallery(tmp_path, PICTURES, [None, 30.0, 20.0, 40.0, None, 10.0, 25.0])
    assert (gallery.pairs[0].label, gallery.pairs[0].seed) == ("farthest", "5")
    worst = decoded(gallery.pairs[0].difference)
    scale = worst.shape[0] // 4
    marked = np.argwhere((worst != 255).any(axis=2))
    assert {tuple(place) for place in marked // scale} == {(1, 2)}
    assert (decoded(gallery.pairs[1].difference) == 255).all()


def test_colours_run_from_white_to_the_end_of_the_ramp() -> None:
    found = coloured(np.array([[[0, 8, 16, 200]]]), 16)[0, 0]
    np.testing.assert_array_equal(found[0], [255, 255, 255])
    np.testing.assert_array_equal(found[1], RAMP[2])
    np.testing.assert_array_equal(found[2], RAMP[-1])
    np.testing.assert_array_equal(found[3], RAMP[-1])


def test_the_farthest_middle_and_closest_pair_are_chosen() -> None:
    assert chosen([30.0, 20.0, None, 25.0, 40.0]) == [("farthest", 1), ("middle", 0), ("closest", 2)]
    assert chosen([30.0]) == []


@pytest.mark.parametrize("change", [{"count": 8, "columns": 2}, {"tile": [6, 4]}, {"columns": 0}, {"count": 0}])
def test_sheets_that_do_not_hold_the_tiles_are_refused(tmp_path: Path, change: dict) -> None:
    save(tmp_path / "float.png", np.zeros((12, 15, 3), dtype=np.uint8))
    with pytest.raises(ArtifactError, match=r"too few for .* tiles"):
        read_tiles(tmp_path / "float.png", PICTURES | change)
