"""Networks that stay in PyTorch: how they are called, and what of their multiply-adds the profiler shows as INT8."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from peers.peer import Deployed, Run, without_gradients
from ptq4dm.pipelines.denoiser import output_tensor

INT8_PRODUCT = "aten::_int_mm"
"""The operator that multiplies INT8 matrices: (m, k) and (k, n)."""
FLOAT_PRODUCTS = ("aten::convolution", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")


def deployed(network: Callable[..., Any], x_t: Tensor, timestep: Tensor, macs: dict[str, int]) -> Deployed:
    """The network as it is; its share in INT8 is measured on one call."""
    run = without_gradients(lambda x, t: output_tensor(network(x, t)))
    events = profiled(run, x_t, timestep)
    return Deployed(run, int8_macs(events) / (len(x_t) * sum(macs.values())), operators(events))


def profiled(run: Run, x_t: Tensor, timestep: Tensor) -> list[Any]:
    """The profiler's events of one call, without those within one of their own name (tensors of a class of their own
    pass through an operator twice); the call before it compiles what has to be compiled."""
    run(x_t, timestep)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        run(x_t, timestep)
    return [event for event in seen.events() or () if not within_its_like(event)]


def within_its_like(event: Any) -> bool:
    """Whether an event lies within another of the same name."""
    outer = event.cpu_parent
    while outer is not None and outer.name != event.name:
        outer = outer.cpu_parent
    return outer is not None


def int8_macs(events: Iterable[Any]) -> int:
    """Multiply-adds of the INT8 matrix products among the events: m k n each."""
    products = [event.input_shapes[:2] for event in events if event.name == INT8_PRODUCT]
    return sum(m * k * n for (m, k), (_, n) in products)


def operators(events: Iterable[Any]) -> dict[str, int]:
    """How often each operator that multiplies was called."""
    return dict(Counter(event.name for event in events if event.name in (INT8_PRODUCT, *FLOAT_PRODUCTS)))


def float_copy(network: nn.Module) -> nn.Module:
    """An empty network of the same class and config, for the state that a tool saved."""
    with torch.device("meta"):
        return type(network).from_config(network.config).eval()  # type: ignore[attr-defined]  # diffusers networks
