"""The sizes and recipes of the network benchmark."""

import bench_network
import pytest
from tiny import tiny_pipeline

import ptq4dm


def test_sizes_are_those_of_the_files(tmp_path):
    recipe = ptq4dm.load_recipe("w8a8-minmax").replace(calibration={"samples": 4, "steps": 3})
    tiny_pipeline().save_pretrained(tmp_path / "float")
    model = ptq4dm.quantize(tiny_pipeline(), recipe)
    model.save(tmp_path / "int8")
    found = bench_network.sizes(tmp_path / "float", tmp_path / "int8", model)
    plain = (tmp_path / "float" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert plain < found["float_bytes_on_disk"] < plain + 20_000
    assert found["float_bytes"] == sum(4 * each.numel() for each in tiny_pipeline().unet.parameters())
    assert found["ratio_on_disk"] == pytest.approx(found["float_bytes_on_disk"] / found["int8_bytes_on_disk"])
    assert found["int8_bytes"] < found["int8_bytes_on_disk"]


def test_each_recipe_is_saved_under_a_name_of_its_own():
    default = ptq4dm.load_recipe("w8a8")
    assert ptq4dm.load_recipe(bench_network.RECIPES["default"]) == default
    every_layer = ptq4dm.load_recipe(bench_network.RECIPES["float-share-0"])
    assert every_layer.float_share == 0 and not every_layer.time_in_float
    assert bench_network.FILES.keys() == bench_network.RECIPES.keys()
    assert len(set(bench_network.FILES.values())) == 2
