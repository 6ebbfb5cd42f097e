"""The examples run, as they stand, on tiny pipelines."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny import tiny_pipeline

import ptq4dm

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def run_example(tmp_path, monkeypatch):
    """Runs an example with some arguments in an empty folder, which is the current one from now on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")

    return run


@pytest.mark.parametrize(
    ("name", "made", "folder", "backend"),
    [
        ("text_to_image", "text_to_image.png", "text-to-image-int8", "simulated"),
        ("inpainting", "inpainting.png", "inpainting-int8", "simulated"),
        ("video", "video.gif", "video-int8", "simulated"),
    ],
)
def test_example(name, made, folder, backend, run_example):
    run_example(name, backend)
    with Image.open(made) as picture:
        assert picture.size == (16, 16) and len(set(picture.convert("RGB").getdata())) > 20
    assert sum(layer.quantized for layer in ptq4dm.load(folder).plan) > 20


def test_five_lines_on_the_fastest_backend(run_example, tmp_path, monkeypatch):
    def quickly(pipeline, recipe, *, quantize=ptq4dm.quantize, progress):
        recipe = ptq4dm.load_recipe(recipe).replace(calibration={"samples": 4, "steps": 4})
        return quantize(pipeline, recipe, progress=progress)

    monkeypatch.setattr(ptq4dm, "quantize", quickly)
    tiny_pipeline((8,), size=8).save_pretrained(tmp_path / "float")
    run_example("five_lines", tmp_path / "float")
    with Image.open("emoji.png") as picture:
        assert picture.size == (8, 8)
    assert ptq4dm.load("emoji-int8").recipe.name == "w8a8-quick"


def test_a_network_in_a_loop_of_ones_own(run_example, capsys):
    run_example("own_loop")
    assert capsys.readouterr().out == "(4, 3, 16, 16)\n"


def test_a_users_own_pictures_are_taken_and_stay_as_they_are(run_example, monkeypatch):
    def quantize(pipeline, recipe, *, conditions, progress):
        assert conditions[0]["image"].getpixel((8, 8)) == (255, 0, 0)
        raise KeyboardInterrupt

    monkeypatch.setattr(ptq4dm, "quantize", quantize)
    for folder, colour in (("images", "red"), ("masks", "white")):
        Path(folder).mkdir()
        Image.new("RGB", (32, 32), colour).save(f"{folder}/2.png")
    before = Path("images/2.png").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run_example("inpainting")
    assert [path.name for path in Path("images").iterdir()] == ["2.png"]
    assert Path("images/2.png").read_bytes() == before
