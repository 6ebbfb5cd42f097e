"""The Triton backend: INT8 kernels in place of a network's quantized layers, on an NVIDIA GPU."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ptq4dm.backends.triton_gpu.available import interpreted, why_not_there, why_unavailable
from ptq4dm.errors import BackendError, BackendWarning, MissingDependencyError
from ptq4dm.pipelines.denoiser import HALF, Call, call_on, placement
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.rewrite import with_layers
from ptq4dm.quantization.time_axis import TimeNote
from ptq4dm.quantization.time_bands import at_band, bands_of

if TYPE_CHECKING:
    from ptq4dm.backends.triton_gpu.choice import LayerChoice


@dataclass(frozen=True)
class TritonBackend:
    """Runs quantized networks on kernels of its own.

    strict: keep every quantized layer in INT8 where its float form is faster, and the weights of layers with float
    inputs in 8 bits; refuse a network of which a layer has no kernel. batch: how many samples a call has in use, for
    the choice between INT8 and float; those of the example if None. tune: whether tiles, and INT8 beside float, are
    timed on the GPU; without, all layers are in INT8, with tiles that nothing was measured for.
    """

    strict: bool = False
    batch: int | None = None
    tune: bool = True
    name = "triton"
    arithmetic = "float-out"
    device = "cuda"

    def __post_init__(self) -> None:
        """Raise BackendError for a batch that is no number of samples."""
        if self.batch is not None and (type(self.batch) is not int or self.batch < 1):
            raise BackendError(
                f"TritonBackend(batch={self.batch!r}): give the number of samples that a call has in use, a whole "
                "number of at least 1, or leave it out for those of the example"
            )

    def unavailable(self) -> str | None:
        """Why the kernels cannot run here, with the alternatives; None if they can."""
        return why_unavailable()

    def prepare(self, network: nn.Module, example: Call | None) -> nn.Module:
        """A copy of `network` with INT8 kernels in it: a module like any other, to be moved, cast and compiled.

        On a GPU, with an example, or where the network's config tells what a call is (UNets, DiT), each layer is timed
        in INT8 and in float, and the faster stays; elsewhere all are in INT8. The copy's
        `ptq4dm_layers` tells of each. Layers without a kernel stay in float, on the same rounded numbers, with a
        BackendWarning that names them. Raises BackendError where that is not allowed, or where no
        kernel can run.
        """
        reason = self.unavailable() or why_not_there(placement(network)[0])
        if reason:
            kind = MissingDependencyError if "pip install" in reason else BackendError
            raise kind(reason)
        from ptq4dm.backends.triton_gpu.check_around import check_around
        from ptq4dm.backends.triton_gpu.fusion import fuse_around_layers
        from ptq4dm.backends.triton_gpu.self_check import self_check
        from ptq4dm.backends.triton_gpu.weight_only import half_precision_forms

        layers, left = with_kernels(network)
        self.tell(left, len(layers) + len(left))
        forms, choices = self.chosen(network, layers, example)
        self_check(layers, forms, checking_device(network))
        device, dtype = placement(network)
        fast = not self.strict and dtype in HALF and device.type == "cuda"
        forms |= half_precision_forms(network, dtype if fast else None)
        prepared = (forms[""] if "" in forms else with_layers(network, forms)).eval()  # "": the network is one layer
        fuse_around_layers(prepared)
        types = (torch.float32, dtype) if dtype in HALF else (torch.float32,)
        check_around(prepared, layers, types, checking_device(network))
        for module in prepared.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (torch's stub lacks it)
        hook_as(network, prepared)
        for module in prepared.modules():  # the hook that knows the band is the network's own
            if isinstance(module, QuantizedLayer) and module.bands is not None:
                module.bands = bands_of(network)
        vars(prepared).update(save_pretrained=refuse_saving, ptq4dm_layers=(*choices, *without_kernel(left)))
        return prepared

    def chosen(
        self, network: nn.Module, layers: dict[str, QuantizedLayer], example: Call | None
    ) -> tuple[dict[str, nn.Module], list["LayerChoice"]]:
        """What to put in place of each layer: measured on a GPU where a call is known, else INT8."""
        from ptq4dm.backends.triton_gpu import choice, timer, timings
        from ptq4dm.backends.triton_gpu.examples import example_from_config
        from ptq4dm.backends.triton_gpu.layers import triton_form

        device = placement(network)[0]
        example = example_from_config(network) if example is None else example
        if device.type != "cuda" or example is None or not self.tune:
            forms: dict[str, nn.Module] = {name: triton_form(layer) for name, layer in layers.items()}
            why = "the network is not on a GPU" if device.type != "cuda" else "no call is known"
            why = "not measured: " + (why if self.tune else "the backend was told not to tune")
            return forms, [
                choice.LayerChoice(name, type(form).__name__, True, reason=why) for name, form in forms.items()
            ]
        works = choice.works_of(network, layers, call_in_type(network, example))
        if self.batch is not None:
            works = choice.with_batch(works, samples_of(example), self.batch)
        fitting, known, bands = choice.fitting_on(device), timings.timings_of(device), bands_of(network)
        with nullcontext() if bands is None else at_band(bands, 0):
            on_gpu = partial(timer.seconds_on_gpu, device=device)
            return choice.choose(layers, works, known, on_gpu, fitting, self.strict, device)

    def tell(self, left: dict[str, str], count: int) -> None:
        """Warn of layers that have no kernel, or refuse them."""
        if not left:
            return
        first = "; ".join(f"{name}: {reason}" for name, reason in list(left.items())[:3])
        if self.strict:
            raise BackendError(
                f"{len(left)} of {count} quantized layers have no INT8 kernel ({first}): leave strict out, or keep "
                "them in float (keep_float)"
            )
        warnings.warn(
            f"{len(left)} of {count} quantized layers have no INT8 kernel ({first}): they run in float, on the same "
            "rounded numbers",
            BackendWarning,
            stacklevel=3,
        )


def with_kernels(network: nn.Module) -> tuple[dict[str, QuantizedLayer], dict[str, str]]:
    """The quantized layers of a network that have an INT8 kernel, by name, and why the others have none."""
    from ptq4dm.backends.triton_gpu.layers import why_not

    layers = {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}
    reasons = {name: reason for name, layer in layers.items() if (reason := why_not(layer))}
    return {name: layer for name, layer in layers.items() if name not in reasons}, reasons


def without_kernel(reasons: dict[str, str]) -> list["LayerChoice"]:
    """What the layers without a kernel are told of."""
    from ptq4dm.backends.triton_gpu.choice import LayerChoice

    return [LayerChoice(name, "simulated", False, reason=reason) for name, reason in reasons.items()]


def hook_as(network: nn.Module, prepared: nn.Module) -> None:
    """Put the hooks in front of a network's calls in front of those of its prepared form: the hooks themselves, in
    dictionaries of its own, so that one that is registered later is the form's alone, or the network's.

    The note on the time axis is set anew on the network once engines have been timed: it is looked up there.
    """
    hooks = {key: hook for key, hook in network._forward_pre_hooks.items() if not isinstance(hook, TimeNote)}
    with_kwargs = {key: told for key, told in network._forward_pre_hooks_with_kwargs.items() if key in hooks}
    prepared._forward_pre_hooks = OrderedDict(hooks)
    prepared._forward_pre_hooks_with_kwargs = OrderedDict(with_kwargs)
    prepared.register_forward_pre_hook(NoteOf(network._forward_pre_hooks), with_kwargs=True)


class NoteOf:
    """A hook before the calls of a prepared network: the note on the time axis that is among `hooks`, if one is."""

    def __init__(self, hooks: Mapping[int, Callable]):
        self.hooks = hooks

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at the time-step of a call."""
        for hook in self.hooks.values():
            if isinstance(hook, TimeNote):
                hook(module, args, kwargs)


def checking_device(network: nn.Module) -> torch.device:
    """Where the kernels are checked: where the network is, if they run there, else on the GPU."""
    device = placement(network)[0]
    return device if device.type == "cuda" or interpreted() else torch.device("cuda")


def call_in_type(network: nn.Module, example: Call) -> Call:
    """The call on the network's device, its floats in the type of the network's float layers."""
    dtype = placement(network)[1]
    call = call_on(network, example)
    cast = pytree.tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, (call.args, call.kwargs))
    return Call(*cast)


def samples_of(example: Call) -> int:
    """The batch of a call: the first size of its first tensor that has one."""
    leaves = pytree.tree_leaves((example.args, example.kwargs))
    return next((len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() > 1), 1)


def refuse_saving(*args: object, **kwargs: object) -> NoReturn:
    """In place of `save_pretrained`, which would write the kernels' own tensors under the artifact's name."""
    raise BackendError(
        "this network is laid out for the triton backend: save the quantized model (QuantizedModel.save), or the "
        "pipeline as it was before it went to this backend"
    )
