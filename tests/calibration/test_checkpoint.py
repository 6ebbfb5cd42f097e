"""An interrupted calibration of a pipeline at work goes on where it stopped, and gives the same to the bit."""

import dataclasses
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LDMPipeline, VQModel
from families import FAMILIES
from PIL import Image
from tiny import tiny_unet

import ptq4dm
from ptq4dm.calibration.checkpoint import checkpoint_key, read_checkpoint
from ptq4dm.cli.main import main
from ptq4dm.errors import ArtifactError
from ptq4dm.pipelines.denoisers import Run, watch_run, with_found
from ptq4dm.ranges.range_table import RangeTable
from ptq4dm.recipe import CalibrationRecipe

RECIPE = ptq4dm.load_recipe("w8a8-minmax").replace(
    calibration={"samples": 7, "steps": 4, "batch_size": 2, "timesteps": "uniform"}
)


def latent_pipeline(seed=0):
    torch.manual_seed(0)
    vqvae = VQModel(block_out_channels=(8,), norm_num_groups=4, latent_channels=3, num_vq_embeddings=8)
    return LDMPipeline(vqvae.eval(), tiny_unet((8,), seed=seed), DDIMScheduler())


class Calls:
    """Counts the calls of a UNet, and can interrupt them as a user's Ctrl-C does."""

    def __init__(self, source, interrupt_after=None):
        self.made, self.limit, self.network = 0, interrupt_after, source.unet

    def __enter__(self):
        self.handle = self.network.register_forward_pre_hook(self.see)
        return self

    def see(self, module, args):
        if self.made == self.limit:
            raise KeyboardInterrupt
        self.made += 1

    def __exit__(self, *error):
        self.handle.remove()


def same(one, other):
    held, wanted = one.network.state_dict(), other.network.state_dict()
    return held.keys() == wanted.keys() and all(torch.equal(held[name], wanted[name]) for name in held)


def test_it_resumes_to_the_same_bits(tmp_path):
    source = latent_pipeline()
    with Calls(source) as whole:
        uninterrupted = ptq4dm.quantize(source, RECIPE, work=tmp_path / "whole")
    first_run = RECIPE.calibration.steps
    limit = first_run + uninterrupted.facts["calibration"]["calls_made"] // 2  # calls of two pictures: in the last runs
    with Calls(source, limit) as first, pytest.raises(KeyboardInterrupt):
        ptq4dm.quantize(source, RECIPE, work=tmp_path / "work")
    (path,) = tmp_path.glob("work/*/runs.safetensors")
    half = read_checkpoint(path)
    assert half is not None and 1 < half.runs < 4
    with Calls(source) as second:
        resumed = ptq4dm.quantize(source, RECIPE, work=tmp_path / "work")
    assert second.made < whole.made < first.made + second.made
    assert resumed.facts == uninterrupted.facts and resumed.plan == uninterrupted.plan
    assert same(resumed, uninterrupted)
    tables = [RangeTable.load(tmp_path / place / "unet.range_table.safetensors")
              for place in ("whole", "work")]  # fmt: skip
    assert tables[0].fingerprint == tables[1].fingerprint
    with Calls(source) as third:  # all runs are known now
        assert same(ptq4dm.quantize(source, RECIPE, work=tmp_path / "work"), uninterrupted)
    assert third.made < second.made
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_damaged_checkpoint_is_not_taken(tmp_path, damage):
    source, recipe = latent_pipeline(), RECIPE.replace(calibration={"samples": 2, "steps": 2})
    wanted = ptq4dm.quantize(source, recipe, work=tmp_path)
    (path,) = tmp_path.glob("*/runs.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    assert read_checkpoint(path) is None
    assert same(ptq4dm.quantize(source, recipe, work=tmp_path), wanted)


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"):
        ptq4dm.quantize(latent_pipeline(), RECIPE, work=tmp_path / "file")


def picture(value):
    return Image.fromarray(np.full((4, 4, 3), value, np.uint8))


def test_the_key_is_of_all_that_statistics_depend_on():
    recipe, watched, tensors = CalibrationRecipe(samples=2, steps=2), {"bands": 4}, {"drawn": torch.tensor([1, 2])}

    first = ({"prompt": "a", "image": picture(3)}, {})

    def key(seed=0, conditions=first, recipe=recipe, watched=watched, drawn=1):
        source = latent_pipeline(seed)
        pipeline = ptq4dm.open_pipeline(source)
        run = watch_run(pipeline, {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)})
        drawn = torch.tensor([drawn, 2])
        return checkpoint_key(with_found(pipeline, run), run, conditions, recipe, watched, {**tensors, "drawn": drawn})

    assert key() == key(conditions=({"prompt": "a", "image": picture(3)}, {}))
    others = [
        key(seed=1),
        key(conditions=({"prompt": "b", "image": picture(3)}, {})),
        key(conditions=({"prompt": "a", "image": picture(4)}, {})),
        key(conditions=({"prompt": "a", "image": torch.ones(2)}, {})),
        key(conditions=({"prompt": "a", "image": torch.zeros(2)}, {})),
        key(conditions=({}, *first)),
        key(recipe=dataclasses.replace(recipe, batch_size=1)),
        key(watched={"bands": 5}),
        key(drawn=2),
    ]
    assert len({key(), *others}) == len(others) + 1
    beyond = (*first, {"prompt": "never used"})
    more = (*first, {"prompt": "nor this"})
    assert key(conditions=beyond) == key(conditions=more) != key()


class Lazy(Sequence):
    """Conditions with pictures that are made when they are asked for; it counts those alive at once."""

    def __init__(self):
        self.alive, self.most = weakref.WeakSet(), 0

    def __len__(self):
        return 6

    def __getitem__(self, index):
        image = torch.full((4,), float(index))
        self.alive.add(image)
        self.most = max(self.most, len(self.alive))
        return {"image": image}


def test_no_more_than_one_condition_is_in_memory_for_the_key():
    source, recipe, conditions = latent_pipeline(), CalibrationRecipe(samples=6, steps=1), Lazy()
    checkpoint_key(ptq4dm.Pipeline(source, "lazy", ("unet",)), Run((), {}), conditions, recipe, {}, {})
    assert 1 <= conditions.most <= 2


def test_the_command_line_keeps_it_in_its_work_folder(tmp_path, capsys):
    FAMILIES["stable-diffusion"].build().save_pretrained(tmp_path / "float")
    (tmp_path / "recipe.toml").write_text("[calibration]\nsamples = 2\nsteps = 2\nbatch_size = 1\n")
    command = [
        "quantize",
        tmp_path / "float",
        "--out",
        tmp_path / "int8",
        "--recipe",
        tmp_path / "recipe.toml",
        "--json",
    ]
    assert main([str(item) for item in command]) == 0
    (path,) = tmp_path.glob("int8.work/*/runs.safetensors")
    held = read_checkpoint(path)
    assert held is not None and held.runs == 2
    assert held.made["unet"] == ptq4dm.load(tmp_path / "int8").facts["calibration"]["calls_made"]
