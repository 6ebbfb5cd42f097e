"""The examples run, as they stand, on tiny pipelines."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

import ptq4dm

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.parametrize(
    ("name", "made", "folder", "backend"),
    [
        ("text_to_image", "text_to_image.png", "text-to-image-int8", "simulated"),
        ("inpainting", "inpainting.png", "inpainting-int8", "simulated"),
        ("video", "video.gif", "video-int8", "simulated"),
    ],
)
def test_example(name, made, folder, backend, tmp_path, monkeypatch):
    if backend == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", backend])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    with Image.open(made) as picture:
        assert picture.size == (16, 16) and len(set(picture.convert("RGB").getdata())) > 20
    assert sum(layer.quantized for layer in ptq4dm.load(folder).plan) > 20
