"""Rounding from outside: at the right places, on the right values, and nowhere else."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from tiny import tiny_unet
from torch import Tensor, nn

from ptq4dm.pipelines.denoiser import Call
from ptq4dm.pipelines.sampling import sample_with, seeded_start, trajectory
from ptq4dm.ranges.search import InputRange
from ptq4dm.recipe import RangeRecipe
from ptq4dm.studies.rounded_steps import round_steps
from ptq4dm.studies.rounding import SITES, Rounding, has_sites, site_ranges, with_rounding, with_sites

CALLS = [(Call((torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 900]))), None)]
COARSE = InputRange(0.25, 128, -32.0, 31.75, 0.0)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return tiny_unet()


@torch.no_grad()
def answer(network: nn.Module) -> Tensor:
    call = CALLS[0][0]
    return network(*call.args).sample


@pytest.mark.parametrize("kind", [kind for kind in SITES if kind != "variance Σ"])
def test_without_ranges_the_copy_answers_as_the_network_does(network: nn.Module, kind: str) -> None:
    copied, names = with_sites(network, kind)
    assert names
    assert torch.allclose(answer(copied), answer(network), atol=1e-6)
    assert not any(isinstance(module, Rounding) for module in network.modules())


@pytest.mark.parametrize("kind", [kind for kind in SITES if kind != "variance Σ"])
def test_what_a_kind_gives_takes_256_values(network: nn.Module, kind: str) -> None:
    ranges = site_ranges(network, kind, CALLS, RangeRecipe())
    rounded = with_rounding(network, kind, ranges)
    seen: dict[str, int] = {}
    for name, module in rounded.named_modules():
        if isinstance(module, Rounding):
            module.register_forward_hook(lambda _, args, output, name=name: seen.update({name: len(output.unique())}))
    got, wanted = answer(rounded), answer(network)
    assert seen.keys() == ranges.keys()
    assert all(1 < number <= 256 for number in seen.values())
    error = float((got - wanted).norm() / wanted.norm())
    assert 0 < error < 0.2


def test_sites_are_all_operations_of_the_kind(network: nn.Module) -> None:
    def number(kind: str) -> int:
        return len(with_sites(network, kind)[1])

    assert number("SiLU") == sum(isinstance(module, nn.SiLU) for module in network.modules())
    norms = sum(isinstance(module, nn.GroupNorm | nn.LayerNorm) for module in network.modules())
    assert number("normalisation") == norms
    heads = sum(hasattr(module, "to_q") for module in network.modules())
    assert heads and number("attention products") == 4 * heads and number("softmax") == heads
    assert number("output ε") == 1


def test_a_network_without_attention_has_no_such_sites() -> None:
    plain = tiny_unet(attention=False, add_attention=False)
    assert not has_sites(plain, "softmax") and not has_sites(plain, "attention products")
    assert site_ranges(plain, "softmax", CALLS, RangeRecipe()) == {}
    assert has_sites(plain, "SiLU")


def test_a_predicted_variance_is_rounded_apart_from_the_noise() -> None:
    torch.manual_seed(0)
    config: dict[str, Any] = dict(tiny_unet().config) | {"out_channels": 6}
    learned = UNet2DModel.from_config(config).eval()
    plain = answer(learned)
    for kind, first in (("output ε", True), ("variance Σ", False)):
        got = answer(with_rounding(learned, kind, site_ranges(learned, kind, CALLS, RangeRecipe())))
        kept, changed = (slice(3, 6), slice(0, 3)) if first else (slice(0, 3), slice(3, 6))
        assert torch.equal(got[:, kept], plain[:, kept])
        assert not torch.equal(got[:, changed], plain[:, changed])
        assert len(got[:, changed].unique()) <= 256
    assert SITES["variance Σ"](tiny_unet()) == {}


def steps_of(network: nn.Module, scheduler: Any) -> list[Tensor]:
    x_T, generators = seeded_start((3, 16, 16), [1, 2])
    return [step.x_t for step in trajectory(network, scheduler, 5, x_T, generators)]


def test_every_step_of_a_sampler_is_rounded(network: nn.Module) -> None:
    rounded = steps_of(network, round_steps(DDIMScheduler(), COARSE, mean_only=False))
    assert len(rounded) == 5
    for x_t in rounded[1:]:
        assert torch.equal(x_t / 0.25, (x_t / 0.25).round())


def test_a_rounded_mean_gets_the_noise_of_the_plain_step() -> None:
    x, output = torch.randn(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    for variance_type in ("fixed_small", "fixed_small_log", "fixed_large"):
        plain = DDPMScheduler(variance_type=variance_type)
        plain.set_timesteps(5)
        options: dict[str, Any] = {"return_dict": False}
        noisy = plain.step(output, 600, x, generator=[torch.Generator().manual_seed(i) for i in (7, 8)], **options)[0]  # type: ignore[arg-type]
        alpha, before = plain.alphas_cumprod[600], plain.alphas_cumprod[400]
        x_0 = ((x - (1 - alpha) ** 0.5 * output) / alpha**0.5).clamp(-1, 1)
        beta = 1 - alpha / before
        mean = (before**0.5 * beta * x_0 + (1 - beta) ** 0.5 * (1 - before) * x) / (1 - alpha)
        rounded = round_steps(plain, COARSE, mean_only=True)
        got = rounded.step(output, 600, x, generator=[torch.Generator().manual_seed(i) for i in (7, 8)], **options)[0]
        wanted = (mean / 0.25).round() * 0.25 + (noisy - mean)
        assert float(((got - wanted).abs() > 1e-4).float().mean()) < 1e-3  # float rounding may flip a step


def test_without_noise_an_update_smaller_than_half_a_step_is_lost() -> None:
    """So rounding x_{t-1} stops DDIM where its steps are small, and not DDPM, whose noise is larger than that."""
    x, output = torch.randn(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    x = (x / 0.25).round() * 0.25
    options: dict[str, Any] = {"return_dict": False}
    plain, noisy = DDIMScheduler(), DDPMScheduler()
    plain.set_timesteps(50)
    noisy.set_timesteps(50)
    small = (plain.step(output, 900, x, **options)[0] - x).abs() < 0.124
    got = round_steps(plain, COARSE, mean_only=False).step(output, 900, x, **options)[0]
    assert 50 < small.sum() < small.numel() and torch.equal(got[small], x[small])
    options |= {"generator": [torch.Generator().manual_seed(seed) for seed in (7, 8)]}
    got = round_steps(noisy, COARSE, mean_only=False).step(output, 900, x, **options)[0]
    assert (got != x)[small].float().mean() > 0.3


def test_a_copy_of_a_rounding_scheduler_rounds_and_the_class_does_not(network: nn.Module) -> None:
    scheduler = round_steps(DDIMScheduler(), COARSE, mean_only=False)
    shape, seeds = (3, 16, 16), [5, 6]
    one, other, plain = (
        sample_with(network, each, shape, seeds, 4, size, shown=False)
        for each, size in ((scheduler, 2), (scheduler, 1), (DDIMScheduler(), 2))
    )
    assert torch.allclose(one, other, atol=0.13)
    assert not torch.allclose(one, plain, atol=1e-3)
