import dataclasses

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from gaussian import GaussianUNet, gaussian_pipeline
from tiny import tiny_pipeline

from ptq4dm.calibration.collect import collect
from ptq4dm.errors import ArtifactError, CalibrationError, RecipeError
from ptq4dm.pipelines.pipeline import Pipeline, open_pipeline
from ptq4dm.recipe import CalibrationRecipe
from ptq4dm.zoo import zoo

RECIPE = CalibrationRecipe(samples=10, steps=8, batch_size=3, timesteps="uniform")


@pytest.fixture(scope="module")
def pipeline():
    return open_pipeline(tiny_pipeline())


class Evaluations:
    """Counts what the network evaluates, and can interrupt it as a user's Ctrl-C does."""

    def __init__(self, pipeline, interrupt_after=None):
        self.count, self.limit = 0, interrupt_after
        self.network = pipeline.denoiser

    def __enter__(self):
        self.handle = self.network.register_forward_hook(self.see)
        return self

    def see(self, module, args, output):
        self.count += len(args[0])
        if self.limit is not None and self.count > self.limit:
            raise KeyboardInterrupt

    def __exit__(self, *error):
        self.handle.remove()


def test_an_interrupted_collection_resumes_to_the_same_bits(pipeline, tmp_path):
    with Evaluations(pipeline) as whole:
        uninterrupted = collect(pipeline, RECIPE, shown=False)
    with Evaluations(pipeline, interrupt_after=whole.count * 2 // 3) as first, pytest.raises(KeyboardInterrupt):
        collect(pipeline, RECIPE, tmp_path, shown=False)
    finished = list(tmp_path.rglob("chunk-*.safetensors"))
    assert 0 < len(finished) < 4
    with Evaluations(pipeline) as second:
        resumed = collect(pipeline, RECIPE, tmp_path, shown=False)
    assert second.count < whole.count, "finished chunks are read, not collected again"
    assert first.count + second.count >= whole.count
    assert torch.equal(resumed.x_t, uninterrupted.x_t)
    assert torch.equal(resumed.timesteps, uninterrupted.timesteps)
    assert resumed.fingerprint == uninterrupted.fingerprint
    assert resumed.facts["calls_made"] == uninterrupted.facts["calls_made"] == whole.count
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 9}, {"sampler": "ddpm"}, {"batch_size": 4}])
def test_chunks_of_another_recipe_are_not_taken(pipeline, tmp_path, change):
    recipe = dataclasses.replace(RECIPE, samples=4)
    collect(pipeline, recipe, tmp_path, shown=False)
    other = dataclasses.replace(recipe, **change)
    expected = collect(pipeline, other, shown=False)
    assert collect(pipeline, other, tmp_path, shown=False).fingerprint == expected.fingerprint


def test_chunks_of_another_model_are_not_taken(pipeline, tmp_path):
    recipe = dataclasses.replace(RECIPE, samples=4)
    collect(pipeline, recipe, tmp_path, shown=False)
    other = open_pipeline(tiny_pipeline(seed=1))
    expected = collect(other, recipe, shown=False)
    assert collect(other, recipe, tmp_path, shown=False).fingerprint == expected.fingerprint


def test_laws_of_your_own_with_one_name_have_their_own_chunks(pipeline, tmp_path):
    def law_at(t):
        return lambda samples, num_train_timesteps, rng: torch.full((samples,), t).numpy()

    sets = [
        collect(pipeline, dataclasses.replace(RECIPE, samples=2, timesteps=law_at(t)), tmp_path, shown=False)
        for t in (750, 875)
    ]
    assert [found.timesteps.tolist() for found in sets] == [[750, 750], [875, 875]]


def test_a_damaged_chunk_is_collected_again(pipeline, tmp_path):
    expected = collect(pipeline, RECIPE, tmp_path, shown=False)
    first, second, *_ = sorted(tmp_path.rglob("chunk-*.safetensors"))
    first.write_bytes(first.read_bytes()[:200])
    content = bytearray(second.read_bytes())
    content[-3] ^= 1
    second.write_bytes(content)
    assert collect(pipeline, RECIPE, tmp_path, shown=False).fingerprint == expected.fingerprint


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_batch_size_changes_samples_by_float_rounding_only(pipeline, sampler):
    recipe = dataclasses.replace(RECIPE, sampler=sampler)
    one, all_at_once = (
        collect(pipeline, dataclasses.replace(recipe, batch_size=size), shown=False) for size in (1, 10)
    )
    torch.testing.assert_close(one.x_t, all_at_once.x_t, atol=1e-4, rtol=0)
    assert torch.equal(one.timesteps, all_at_once.timesteps)


def test_the_seed_decides_everything(pipeline):
    first, again, other = (
        collect(pipeline, dataclasses.replace(RECIPE, samples=3, seed=seed), shown=False) for seed in (5, 5, 6)
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert not torch.equal(first.x_t, other.x_t)


def test_the_facts_say_how_it_was_made(pipeline):
    facts = collect(pipeline, RECIPE, shown=False).facts
    assert facts.items() >= {
        "model": "DDPMPipeline", "model_fingerprint": pipeline.fingerprint, "source": "denoising", "law": "uniform",
        "law_options": {}, "sampler": "ddim", "steps": 8, "seed": 0, "samples": 10,
    }.items()  # fmt: skip
    assert facts["seconds"] > 0


def test_a_built_in_model_brings_its_pictures():
    source = DDPMPipeline(GaussianUNet(sample_size=32, block_out_channels=(4,), norm_num_groups=1, layers_per_block=1,
                                       down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
                                       add_attention=False), DDPMScheduler())  # fmt: skip
    recipe = dataclasses.replace(RECIPE, source="pictures", samples=3)
    found = collect(Pipeline(source, "emoji-32", ("unet",)), recipe, shown=False)
    known = zoo.pictures("emoji-32")
    assert all(any(torch.equal(x, picture) for picture in known) for x in found.x_t)


class NaNBelow(GaussianUNet):
    def forward(self, sample, timestep, return_dict=True):
        output = super().forward(sample, timestep)
        output.sample = output.sample * float("nan") if timestep < 500 else output.sample
        return output


def test_a_network_that_gives_nan():
    source = gaussian_pipeline()
    source.unet.__class__ = NaNBelow
    with pytest.raises(CalibrationError, match="output at time-step 375 holds NaN or infinity: check the model"):
        collect(open_pipeline(source), dataclasses.replace(RECIPE, timesteps="single"), shown=False)


@pytest.mark.parametrize(
    ("change", "pictures", "error", "message"),
    [
        ({"samples": 0}, None, CalibrationError, "samples = 0: a calibration set needs at least 1"),
        ({"source": "dreams"}, None, RecipeError, "unknown calibration source 'dreams': accepted are denoising, pict"),
        ({"sampler": "heun"}, None, RecipeError, "unknown scheduler 'heun'"),
        ({"steps": 2000}, None, RecipeError, "steps = 2000: DDIMScheduler takes 1 to 1000"),
        ({"timesteps": "single", "law_options": {"t": 1000}}, None, RecipeError, "time-step 1000 is out of range"),
        ({"batch_size": 0}, None, RecipeError, "batch_size = 0 should be at least 1"),
        ({"seed": -1}, None, RecipeError, "^seed = -1 should be at least 0"),
        ({"source": "pictures"}, None, CalibrationError, "source 'pictures' needs pictures"),
        ({"source": "diffused"}, torch.zeros(0, 3, 16, 16), CalibrationError, "source 'diffused' needs pictures"),
        ({"source": "pictures"}, torch.zeros(2, 3, 8, 8), CalibrationError, r"shape \(3, 8, 8\) for a model of"),
        ({"source": "pictures"}, torch.full((2, 3, 16, 16), 255.0), CalibrationError, r"reach 255: scale them to"),
        ({}, torch.zeros(2, 3, 16, 16), CalibrationError, "source 'denoising' takes none: leave them out, or use"),
        ({"source": "pictures"}, torch.full((2, 3, 16, 16), torch.nan), CalibrationError, "pictures holds NaN"),
    ],
)
def test_bad_recipes(pipeline, change, pictures, error, message):
    with pytest.raises(error, match=message):
        collect(pipeline, dataclasses.replace(RECIPE, **change), shown=False, pictures=pictures)


def test_a_cache_that_cannot_be_written(pipeline, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(ArtifactError, match="cannot write"):
        collect(pipeline, dataclasses.replace(RECIPE, samples=1), tmp_path / "cache", shown=False)
