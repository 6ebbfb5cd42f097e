"""The diffusion process of improved-diffusion in float64, from the paper (Nichol and Dhariwal, arXiv 2102.09672)."""

import math

import numpy as np


def cosine_bars(steps: int) -> np.ndarray:
    """ᾱ_t of the betas of the cosine schedule, capped at 0.999 (Eq. 17)."""

    def f(t: float) -> float:
        return math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - f(t + 1) / f(t), 0.999) for t in range(steps)]
    return np.cumprod(1 - np.array(betas))


def linear_bars(steps: int) -> np.ndarray:
    """ᾱ_t of linear betas, scaled so that any number of steps ends in noise."""
    return np.cumprod(1 - np.linspace(0.1 / steps, 20 / steps, steps))


def clipped_x0(x: np.ndarray, noise: np.ndarray, bar: float) -> np.ndarray:
    return np.clip((x - math.sqrt(1 - bar) * noise) / math.sqrt(bar), -1, 1)


def ddim_step(x: np.ndarray, noise: np.ndarray, bar: float, before: float) -> np.ndarray:
    """x at the next time-step visited (Eq. 12 of DDIM, η = 0), with the noise of the clipped x_0."""
    x_0 = clipped_x0(x, noise, bar)
    noise = (x - math.sqrt(bar) * x_0) / math.sqrt(1 - bar)
    return math.sqrt(before) * x_0 + math.sqrt(1 - before) * noise


def ddpm_step(
    x: np.ndarray, noise: np.ndarray, share: np.ndarray, bar: float, before: float, drawn: np.ndarray
) -> np.ndarray:
    """x_{t-1}: the posterior's mean, and the variance that lies at `share` (-1 to 1) between its bounds (Eq. 15)."""
    beta = 1 - bar / before
    x_0 = clipped_x0(x, noise, bar)
    mean = math.sqrt(before) * beta / (1 - bar) * x_0 + math.sqrt(1 - beta) * (1 - before) / (1 - bar) * x
    smallest = beta * (1 - before) / (1 - bar)
    part = (share + 1) / 2
    log_variance = part * math.log(beta) + (1 - part) * math.log(smallest)
    return mean + np.exp(log_variance / 2) * drawn
