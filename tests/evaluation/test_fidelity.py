"""Call and picture errors against numbers worked out another way."""

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from ptq4dm.errors import EvaluationError
from ptq4dm.evaluation.fidelity import call_error, compare_calls, mean_db, picture_psnr
from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.pipelines.sampling import sample


class Scaled(nn.Module):
    """Answers as the float network does, times a factor that depends on t; remembers what it was asked."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.asked: list[tuple[float, Tensor]] = []

    def forward(self, x_t: Tensor, timestep: Tensor) -> tuple[Tensor]:
        self.asked.append((float(timestep), x_t.clone()))
        return (self.network(x_t, timestep).sample * (1 + float(timestep) / 1000),)


def test_the_curve_over_t_is_the_error_made_at_each_t(pipe: DDPMPipeline) -> None:
    pipeline = open_pipeline(pipe)
    scaled = Scaled(pipeline.denoiser)
    walk = compare_calls(pipeline, {"scaled": scaled, "same": pipeline.denoiser}, "ddim", 5, [3, 4, 5], batch_size=2)
    errors = walk.errors["scaled"]
    assert errors.timesteps.tolist() == [800, 600, 400, 200, 0]
    assert errors.relative_l2.shape == errors.psnr.shape == (3, 5)
    wanted = torch.tensor([0.8, 0.6, 0.4, 0.2, 0.0], dtype=torch.float64).expand(3, 5)
    torch.testing.assert_close(errors.relative_l2, wanted, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(errors.gain, wanted, rtol=1e-5, atol=1e-9)
    figures = errors.to_dict()
    assert figures["n"] == 3
    assert figures["curve"]["gain"] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0], rel=1e-5)
    assert figures["relative_l2_mean"] == pytest.approx(0.4, rel=1e-5)
    assert figures["curve"]["psnr"][-1] is None
    assert figures["identical"] == 3
    assert walk.errors["same"].to_dict()["psnr_mean"] is None


def test_both_networks_get_the_float_trajectory(pipe: DDPMPipeline) -> None:
    pipeline = open_pipeline(pipe)
    scaled = Scaled(pipeline.denoiser)
    walk = compare_calls(pipeline, {"scaled": scaled}, "ddim", 4, [8, 9], batch_size=2)
    other = compare_calls(pipeline, {}, "ddim", 4, [8, 9], batch_size=1)
    drawn = sample(pipeline.denoiser, "ddim", pipe.scheduler.config, pipeline.picture_shape, [8, 9], 4, 2, shown=False)
    torch.testing.assert_close(walk.pictures, drawn, rtol=0, atol=0)
    torch.testing.assert_close(other.pictures, drawn, rtol=0, atol=1e-4)
    assert [timestep for timestep, _ in scaled.asked] == [750, 500, 250, 0]
    for (asked_t, asked_x), (x_t, timestep) in zip(scaled.asked, walk.calls, strict=True):
        assert asked_t == float(timestep)
        torch.testing.assert_close(asked_x, x_t, rtol=0, atol=0)


def test_call_errors_are_per_picture_with_the_float_range_as_peak() -> None:
    rng = np.random.default_rng(0)
    wanted, got = rng.standard_normal((3, 2, 4, 4)) * 5, rng.standard_normal((3, 2, 4, 4))
    relative, decibels, gains = call_error(torch.tensor(wanted), torch.tensor(got))
    for index in range(3):
        difference = got[index] - wanted[index]
        assert float(relative[index]) == pytest.approx(np.linalg.norm(difference) / np.linalg.norm(wanted[index]))
        peak, mse = np.ptp(wanted[index]), np.mean(difference**2)
        assert float(decibels[index]) == pytest.approx(10 * np.log10(peak**2 / mse))
        (slope,), *_ = np.linalg.lstsq(wanted[index].reshape(-1, 1), difference.reshape(-1))
        assert float(gains[index]) == pytest.approx(slope)


def test_pictures_are_clipped_and_agree_with_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.rand(4, 3, 8, 8, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    got = wanted + 0.05 * torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    decibels = picture_psnr(wanted, got)
    for index in range(4):
        oracle = peak_signal_noise_ratio(got[index].clamp(0, 1), wanted[index].clamp(0, 1), data_range=1.0)
        assert float(decibels[index]) == pytest.approx(float(oracle))
    assert mean_db(decibels) == pytest.approx(float(decibels.mean()))


def test_identical_pictures_are_infinite_and_left_out_of_the_mean() -> None:
    pictures = torch.rand(3, 3, 4, 4)
    other = pictures.clone()
    other[0] = (other[0] + 0.5).clamp(0, 1)
    decibels = picture_psnr(pictures, other)
    assert torch.isinf(decibels).tolist() == [False, True, True]
    assert mean_db(decibels) == pytest.approx(float(decibels[0]))
    assert mean_db(decibels[1:]) is None


def test_a_network_that_answers_nothing_where_nothing_is_wanted_has_no_error() -> None:
    relative, _, gains = call_error(torch.zeros(2, 5), torch.zeros(2, 5))
    assert gains.tolist() == [0, 0]
    assert relative.tolist() == [0.0, 0.0]


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(EvaluationError, match="cannot be compared"):
        picture_psnr(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))
    with pytest.raises(EvaluationError, match="different shapes"):
        call_error(torch.zeros(2, 3), torch.zeros(2, 4))
