"""A network that predicts variances too, from the original checkpoint to pictures of its INT8 form."""

import pytest
import torch
from papers.improved import Settings, random_weights

import ptq4dm
from ptq4dm.errors import RecipeError
from ptq4dm.evaluation.fidelity import compare_calls
from ptq4dm.pipelines.sampling import sample, seeded_start, trajectory
from ptq4dm.pipelines.schedulers import SCHEDULERS, make_scheduler

FLAGS = 'repository = "improved-diffusion"\nimage_size = 8\ndiffusion_steps = 400\nnoise_schedule = "cosine"\n'
FEW = {"calibration": {"samples": 6, "steps": 5, "batch_size": 3}, "float_share": 0.0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "ema_0.9999_100.pt"
    torch.save(random_weights(Settings(mult=(1, 2), attention=(1, 2))), path)  # attention of two widths
    path.with_suffix(".toml").write_text(FLAGS)
    return path


@pytest.fixture(scope="module")
def quantized(checkpoint):
    return ptq4dm.quantize(checkpoint, ptq4dm.load_recipe("w8a8").replace(**FEW))


def drawn(network, pipeline, sampler, steps=4):
    config, shape = pipeline.scheduler.config, pipeline.picture_shape
    return sample(network, sampler, config, shape, [3, 5], steps, 2, shown=False)


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_every_scheduler_draws_or_is_refused(checkpoint, sampler):
    pipeline = ptq4dm.open_pipeline(checkpoint)
    if sampler == "euler":  # its time-steps are floats
        with pytest.raises(RecipeError, match="looks whole time-steps up in a table"):
            drawn(pipeline.denoiser, pipeline, sampler)
        return
    pictures = drawn(pipeline.denoiser, pipeline, sampler)
    assert pictures.shape == (2, 3, 8, 8) and bool(torch.isfinite(pictures).all())


@pytest.mark.parametrize(("sampler", "channels"), [("ddim", 3), ("ddpm", 6)])
def test_a_step_holds_what_its_scheduler_uses(checkpoint, sampler, channels):
    pipeline = ptq4dm.open_pipeline(checkpoint)
    start, generators = seeded_start(pipeline.picture_shape, [0])
    scheduler = make_scheduler(sampler, pipeline.scheduler.config)
    step = next(trajectory(pipeline.denoiser, scheduler, 3, start, generators))
    answer = pipeline.denoiser(step.x_t, step.timestep).sample
    assert answer.shape[1] == 6 and torch.equal(step.output, answer[:, :channels])


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_from_the_checkpoint_to_a_saved_model(checkpoint, quantized, tmp_path, sampler):
    pipeline = ptq4dm.open_pipeline(checkpoint)
    walk = compare_calls(pipeline, {"int8": quantized.network}, sampler, 4, [3, 5], 2)
    assert 0 < float(walk.errors["int8"].relative_l2.mean()) < 0.2  # attention of random weights is steep
    pictures = drawn(quantized.to_module("simulated"), pipeline, sampler)
    assert float((pictures - walk.pictures).abs().mean()) < 0.1
    again = ptq4dm.load(quantized.save(tmp_path / "int8"))
    assert torch.equal(drawn(again.to_module("simulated"), again.pipeline, sampler), pictures)
    assert again.pipeline.num_train_timesteps == 400


def test_the_variance_reaches_the_ddpm_pictures(checkpoint):
    pipeline = ptq4dm.open_pipeline(checkpoint)
    pictures = drawn(pipeline.denoiser, pipeline, "ddpm")
    with torch.no_grad():
        pipeline.denoiser.conv_out.bias[3:] += 3
    assert not torch.equal(drawn(pipeline.denoiser, pipeline, "ddpm"), pictures)
    assert torch.equal(
        drawn(pipeline.denoiser, pipeline, "ddim"), drawn(ptq4dm.open_pipeline(checkpoint).denoiser, pipeline, "ddim")
    )


def test_on_an_engine_and_with_diffusers_own_pipeline(quantized, tmp_path):
    pytest.importorskip("openvino")
    pipeline = quantized.pipeline
    simulated = drawn(quantized.to_module("simulated"), pipeline, "ddim")
    torch.testing.assert_close(drawn(quantized.to_module("openvino"), pipeline, "ddim"), simulated, atol=0.05, rtol=0)
    pipe = quantized.to_pipeline("simulated")
    own = pipe(batch_size=2, num_inference_steps=3, output_type="np", generator=torch.Generator().manual_seed(0)).images
    assert own.shape == (2, 8, 8, 3)
