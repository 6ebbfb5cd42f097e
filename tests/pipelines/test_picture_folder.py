import numpy as np
import pytest
import torch
from PIL import Image

from ptq4dm.errors import EvaluationError
from ptq4dm.pipelines.picture_folder import read_pictures


def test_pictures_come_in_the_order_of_their_names(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
    for index, name in enumerate(("b.png", "c.bmp", "a.PNG")):
        Image.fromarray(pixels[index]).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    found = read_pictures(tmp_path, (3, 4, 6))
    expected = torch.from_numpy(pixels[[2, 0, 1]]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(found, expected)
    assert read_pictures(tmp_path, (1, 4, 6)).shape == (3, 1, 4, 6)


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(EvaluationError, match="is no folder with image files"):
        read_pictures(tmp_path, (3, 4, 6))
    Image.new("RGB", (8, 8)).save(tmp_path / "large.png")
    with pytest.raises(EvaluationError, match=r"large\.png is 8x8, the model draws 6x4"):
        read_pictures(tmp_path, (3, 4, 6))
    (tmp_path / "large.png").write_bytes(b"not a picture")
    with pytest.raises(EvaluationError, match=r"large\.png cannot be read as a picture"):
        read_pictures(tmp_path, (3, 4, 6))
    with pytest.raises(EvaluationError, match="a model of 4 channels"):
        read_pictures(tmp_path, (4, 4, 6))
