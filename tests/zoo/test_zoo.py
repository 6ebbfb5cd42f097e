import numpy as np
import pytest
import torch
from PIL import Image

from ptq4dm.errors import ModelError
from ptq4dm.zoo import zoo


def test_pictures_are_the_tiles_of_the_sheet():
    pictures = zoo.pictures("emoji-32")
    folder = zoo.MODELS["emoji-32"].folder
    names = (folder / "pictures.txt").read_text().split()
    assert pictures.shape == (len(names), 3, 32, 32) and pictures.dtype == torch.float32
    assert float(pictures.min()) == -1.0 and float(pictures.max()) == 1.0
    with Image.open(folder / "pictures.png") as sheet:
        for index in (0, 23, 24, 100, len(names) - 1):
            left, top = index % 24 * 32, index // 24 * 32
            tile = np.asarray(sheet.convert("RGB").crop((left, top, left + 32, top + 32)), dtype=np.float64)
            np.testing.assert_allclose((pictures[index].double().permute(1, 2, 0) + 1) * 127.5, tile, atol=1e-4)


def test_every_picture_shows_something():
    assert float(zoo.pictures("emoji-32").flatten(1).std(1).min()) > 0.05


def test_the_artifact_is_as_small_as_promised():
    """By the bytes of the two files of weights."""
    whole, small = (sum(file.stat().st_size for file in (folder("emoji-32") / "unet").glob("*.safetensors"))
                    for folder in (zoo.model_folder, zoo.int8_folder))  # fmt: skip
    assert whole / small >= 3.8


@pytest.mark.parametrize("function", [zoo.model_folder, zoo.int8_folder, zoo.pictures])
def test_unknown_name(function):
    with pytest.raises(ModelError, match="no built-in model 'emoji-64': accepted are emoji-32"):
        function("emoji-64")


@pytest.mark.parametrize("function", [zoo.model_folder, zoo.int8_folder])
def test_a_missing_part_is_named(monkeypatch, tmp_path, function):
    bare = zoo.ZooModel(tmp_path, "nothing yet", 32, 24)
    monkeypatch.setitem(zoo.MODELS, "bare", bare)
    with pytest.raises(ModelError, match=r"lacks a part of bare .*install ptq4dm again"):
        function("bare")
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "int8").mkdir()
    assert function("bare").parent == tmp_path
