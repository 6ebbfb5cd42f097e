"""Watch the inputs of layers while a network runs, from outside, with hooks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ptq4dm.errors import CalibrationError
from ptq4dm.pipelines.denoiser import TimedCall, layer_input
from ptq4dm.progress import progress
from ptq4dm.ranges.histograms import ONE_BAND, Histogram, LayerStatistics, band_of


class Observer:
    """Histograms of the inputs of layers; set `timesteps` before each call of the network.

    chosen: (rows,) bool, which rows of the call's batch are counted; None for all. smoothing: by layer, what to divide
    each of its input channels by.
    """

    def __init__(self, edges: Sequence[float], smoothing: Mapping[str, Tensor] | None = None):
        self.edges = tuple(edges)
        self.smoothing = smoothing or {}
        self.timesteps: Tensor | None = None
        self.chosen: Tensor | None = None
        self.histograms: dict[str, Histogram] = {}

    def go_on(self, statistics: Mapping[str, LayerStatistics]) -> None:
        """Count on from what was counted before, by layer."""
        self.histograms = {name: Histogram.of(item) for name, item in statistics.items()}

    def watch(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count one input of `layer`; raises CalibrationError if it is not finite."""
        if self.chosen is not None and not bool(self.chosen.any()):
            return
        x = layer_input(args, kwargs).detach().float()
        rows = as_rows(x, channels_last=isinstance(layer, nn.Linear))
        timesteps, band = self.rows_of(name, len(rows))
        counted = self.counted(len(rows))
        if counted is not None:
            rows, band = rows[counted.to(rows.device)], band[counted]
            timesteps = None if timesteps is None else timesteps[counted]
        if not all_finite(rows):
            bad = ~torch.isfinite(rows).flatten(1).all(1).cpu()
            where = "" if timesteps is None else f" at time-step {float(timesteps[bad][0]):g}"
            raise CalibrationError(
                f"the input of layer {name} is NaN or infinite{where}: the float network itself overflows there; "
                "check its weights, its dtype (try float32) and the calibration inputs"
            )
        if name not in self.histograms:
            self.histograms[name] = Histogram(self.edges, rows.shape[1], self.smoothing.get(name))
        self.histograms[name].add(rows, band.to(rows.device))

    def counted(self, rows: int) -> Tensor | None:
        """Which of `rows` rows that entered a layer are counted; None for all of them.

        A layer may see several rows for each of the call's batch (frames, windows), one after the other. Where their
        numbers do not fit (one row that all pictures share) all are counted.
        """
        if self.chosen is None or rows % len(self.chosen):
            return None
        return self.chosen.repeat_interleave(rows // len(self.chosen))

    def rows_of(self, name: str, rows: int) -> tuple[Tensor | None, Tensor]:
        """The time-step (None if unknown) and the band of each of `rows` rows that entered layer `name`."""
        if self.timesteps is None:
            return None, torch.zeros(rows, dtype=torch.int64)
        timesteps = self.timesteps.detach().cpu().double().reshape(-1)
        if rows % len(timesteps) == 0:
            timesteps = timesteps.repeat_interleave(rows // len(timesteps))
        elif len(band_of(timesteps, self.edges).unique()) == 1:
            timesteps = timesteps[:1].expand(rows)
        else:
            raise CalibrationError(
                f"layer {name} got {rows} rows for {len(timesteps)} samples of different time-steps, so they cannot be "
                "told apart: calibrate with one time-step a call, or with bands = 1"
            )
        return timesteps, band_of(timesteps, self.edges)


@contextmanager
def observing(
    network: nn.Module, layers: Sequence[str], edges: Sequence[float], smoothing: Mapping[str, Tensor] | None = None
) -> Iterator[Observer]:
    """Hook the named layers of `network`; on leaving, the hooks are gone. smoothing: as in Observer."""
    observer = Observer(edges, smoothing)
    modules = {name: network.get_submodule(name) for name in layers}

    def hook(name: str) -> Any:
        return lambda layer, args, kwargs: observer.watch(name, layer, args, kwargs)

    handles = [module.register_forward_pre_hook(hook(name), with_kwargs=True) for name, module in modules.items()]
    try:
        yield observer
    finally:
        for handle in handles:
            handle.remove()


def observe(
    network: nn.Module,
    layers: Sequence[str],
    calls: Iterable[TimedCall],
    bands: Sequence[float] | None = None,
    shown: bool = True,
    smoothing: Mapping[str, Tensor] | None = None,
) -> dict[str, LayerStatistics]:
    """Run `calls` through `network` (in eval mode, no gradients) and return statistics of the inputs of `layers`.

    Beside each call stand the (B,) time-steps of its samples, or None. bands: rising edges of the bands of
    time-steps (`band_edges`), None for one band. smoothing: by layer, what to divide each of its input channels by. A
    layer that was never called is absent from the result. Raises CalibrationError when there are no calls or an input
    is not finite.
    """
    total = len(calls) if isinstance(calls, Sized) else None
    samples = 0
    with (
        evaluating(network),
        observing(network, layers, bands or ONE_BAND, smoothing) as observer,
        progress("watching activations", total, shown) as advance,
        torch.no_grad(),
    ):
        for call, timesteps in calls:
            observer.timesteps = timesteps
            network(*call.args, **call.kwargs)
            samples += 1
            advance(1)
    if not samples:
        raise CalibrationError("there are no calibration calls: give at least one sample")
    return {name: observer.histograms[name].finish() for name in layers if name in observer.histograms}


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """While open, a network is in evaluation mode; on leaving, each module is in the mode that it was in."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def all_finite(x: Tensor) -> bool:
    """Whether no value is NaN or infinite: then neither extreme is (a NaN is both)."""
    return not x.numel() or all(bool(torch.isfinite(extreme)) for extreme in (x.amin(), x.amax()))


def as_rows(x: Tensor, channels_last: bool) -> Tensor:
    """(batch, channels, *spatial), or (batch, ..., channels), as (batch, channels, positions)."""
    if x.dim() == 1:
        x = x.unsqueeze(0)
    return x.reshape(len(x), -1, x.shape[-1]).transpose(1, 2) if channels_last else x.flatten(2)
