"""The calibration calls of a network beside the time-steps of their samples."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import nn

from ptq4dm.pipelines.denoiser import Call, TimedCall, call_on

OBSERVED_AT_ONCE: Final = 8
"""Samples in a call of the network while its activations are watched."""
ALONG: Final = 256
"""At how many time-steps the layers that follow the time-step alone are watched."""


def calls_on(network: nn.Module, calls: Iterable[TimedCall]) -> list[TimedCall]:
    """The calls where the network computes; their time-steps, which tell the bands, stay on the CPU."""
    return [(call_on(network, call), timesteps) for call, timesteps in calls]


def evenly_spread(calls: Sequence[Call], most: int) -> list[Call]:
    """At most so many of some calls, evenly spread over them, the first among them."""
    number = min(most, len(calls))
    return [calls[index * len(calls) // number] for index in range(number)]


def calls_along_time(picture_shape: Sequence[int], num_train_timesteps: int) -> list[TimedCall]:
    """Calls at time-steps evenly spaced over all that a sampler may visit, on noise: the picture does not matter."""
    timesteps = torch.linspace(0, num_train_timesteps - 1, min(ALONG, num_train_timesteps)).round().long()
    noise = torch.randn((len(timesteps), *picture_shape), generator=torch.Generator().manual_seed(0))
    size = math.gcd(len(timesteps), OBSERVED_AT_ONCE)  # calls of one shape
    return [(Call((x, t)), t) for x, t in zip(noise.split(size), timesteps.split(size), strict=True)]


def time_span(calls: Sequence[TimedCall]) -> tuple[float, float]:
    """The lowest and highest time-step of some calls; (0, 0), hence one band, if they have none."""
    values = [float(end) for _, t in calls if t is not None for end in (t.min(), t.max())]
    return (min(values), max(values)) if values else (0.0, 0.0)
