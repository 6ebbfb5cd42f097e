"""The noise-estimation network as the rest of the code sees it: a module and the calls made to it."""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from diffusers.utils import BaseOutput
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ptq4dm.errors import ModelError, RecipeError, first_line


@dataclass(frozen=True)
class Call:
    """The positional and keyword arguments of one call of a network."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


RAISED_BY_CALLS: Final = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What the code of a network raises at a call that it does not take, or where it cannot be traced."""

HALF: Final = (torch.float16, torch.bfloat16)
"""The float types of half precision."""

TimedCall = tuple[Call, Tensor | None]
"""A call of a network and the (batch,) time-steps of its samples, None if it has none."""


@torch.no_grad()
def predict(network: nn.Module, x_t: Tensor, timestep: Tensor) -> Tensor:
    """Call the network without gradients: ε_θ(x_t, t), shape (batch, channels, height, width).

    x_t: (batch, channels, height, width). timestep: 0-d or (batch,). Raises ModelError if the network does not take
    them, or if no tensor comes out.
    """
    try:
        return output_tensor(network(x_t, timestep))
    except RAISED_BY_CALLS as error:
        shape, t = " x ".join(map(str, x_t.shape[1:])), float(timestep.flatten()[0])
        raise ModelError(
            f"the network fails at pictures of {shape} and time-step {t:g} ({first_line(error)}): check its "
            "config (sample_size must halve as often as the network does) and its weights"
        ) from error


def predict_in_parts(network: nn.Module, x_t: Tensor, timestep: Tensor, largest: int = 32) -> Tensor:
    """`predict` in parts whose sizes are powers of two, at most `largest`; the answer is the same to float rounding.

    A batch that shrinks one by one meets every size, and libraries keep kernels and scratch memory for each size that
    they have met; in parts they meet six.
    """
    parts, first = [], 0
    while first < len(x_t):
        size = min(largest, 1 << ((len(x_t) - first).bit_length() - 1))
        parts.append(predict(network, x_t[first : first + size], timestep))
        first += size
    return torch.cat(parts)


def output_tensor(output: Any) -> Tensor:
    """Take the tensor out of what a denoiser returns: a tensor, a tuple that starts with one, or `.sample`."""
    if isinstance(output, BaseOutput):
        output = output.to_tuple()
    first = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(first, Tensor):
        raise ModelError(
            f"the network returned {type(output).__name__}: it should return a tensor, or one in `.sample`"
        )
    return first


def placement(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a network computes and in which float type: those of its first float tensor, of those that can be cast if
    there is one; CPU float32 if it has none."""
    first = next(float_tensors(network), None)
    if first is None:  # layers that keep their types, and nothing else
        tensors = itertools.chain(network.parameters(), network.buffers())
        first = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
    return (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)


def float_tensors(network: nn.Module) -> Iterator[Tensor]:
    """The float parameters of a network, then its float buffers, but those that say nothing of the type it computes in:
    of layers that keep their types whatever it is cast to, as scales do, and of parts that its class keeps in float32
    (which diffusers and transformers do not cast when they load in half precision)."""
    kept = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    for kind in ("_parameters", "_buffers"):
        for prefix, module in network.named_modules():
            if not getattr(module, "keeps_types", False) and kept.isdisjoint(prefix.split(".")):
                own = vars(module)[kind]
                yield from (own[name] for name in own if name not in kept and is_float(own[name]))


def is_float(tensor: Tensor | None) -> bool:
    """Whether there is a tensor, of a float type."""
    return tensor is not None and tensor.is_floating_point()


def layer_input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """What enters a convolution or linear layer, by the arguments of its call: the first, or `input`."""
    return args[0] if args else kwargs["input"]


def given(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str) -> Any:
    """An argument of a call, by its place or by its name; None where it is left out."""
    return args[place] if place < len(args) else kwargs.get(name)


def batch_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """The batch of a call: the size of the first tensor argument that has more than one dimension."""
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim() > 1]
    return len(tensors[0]) if tensors else 1


def call_on(network: nn.Module, call: Call) -> Call:
    """The call with its tensors, nested ones too, on the device where `network` computes; their types stay, but that
    a network in half precision gets its float32 inputs in it, as a pipeline gives them."""
    device, dtype = placement(network)

    def moved(tensor: Tensor) -> Tensor:
        halved = dtype in HALF and tensor.dtype == torch.float32 and tensor.dim() > 1  # time-steps stay exact
        return tensor.to(device, dtype) if halved else tensor.to(device)

    return Call(*pytree.tree_map_only(Tensor, moved, (call.args, call.kwargs)))


def network_on(network: nn.Module, device: str | torch.device | None, dtype: torch.dtype | None = None) -> nn.Module:
    """The network itself where it computes on that torch device already, and in that float type, else a copy that
    does; what keeps its type keeps it. None: as it is. Raises RecipeError."""
    now = placement(network)[0]
    there = now if device is None else torch_device(device)
    if dtype is not None:
        require_float_type(dtype)
    if now == there and (dtype is None or all(tensor.dtype == dtype for tensor in float_tensors(network))):
        return network
    copied = copy.deepcopy(network)
    if dtype is None:
        return copied.to(there)
    castable = {id(tensor): tensor for tensor in float_tensors(copied)}
    return copied._apply(lambda tensor: tensor.to(there, dtype) if id(tensor) in castable else tensor.to(there))


def torch_device(name: str | torch.device) -> torch.device:
    """A torch device that holds numbers here; of several of a kind, and without a number, the one that torch takes.
    Raises RecipeError where there is none of that name."""
    try:
        device = torch.device(name)
        probe = torch.zeros(1, device=device)
        probe.cpu()  # `meta` is a device too, but holds no numbers
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        mend = "use cpu, or a device of torch's that is here"
        raise RecipeError(f"device {str(name)!r} cannot be used here ({first_line(error)}): {mend}") from error
    return probe.device if device.index is None else device


def require_float_type(dtype: Any) -> None:
    """Raise RecipeError unless `dtype` is a float type of torch's that networks compute in."""
    if dtype not in (torch.float32, torch.float64, *HALF):
        raise RecipeError(
            f"torch_dtype = {dtype!r}: accepted are torch.float32, torch.float16, torch.bfloat16 and torch.float64"
        )


def require_module(network: Any) -> None:
    """Raise ModelError unless `network` is a torch module."""
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"a {type(network).__name__} is no network: give a torch.nn.Module; a diffusers pipeline, a folder or a "
            "name goes to ptq4dm.quantize"
        )


def require_float(network: nn.Module, name: str) -> None:
    """Raise ModelError where a network is quantized already, by ptq4dm or another tool."""
    if getattr(network, "hf_quantizer", None) is not None or any(
        tensor.dtype == torch.int8 for tensor in (*network.parameters(), *network.buffers())
    ):
        raise ModelError(f"{name} is quantized already: give the float model")


def require_finite_weights(network: nn.Module, name: str) -> None:
    """Raise ModelError that names the first tensor of `network` with NaN or infinite values, or without any."""
    for tensor_name, tensor in network.state_dict().items():
        if tensor.is_meta and type(tensor) is Tensor:  # a subclass may hold its numbers elsewhere
            raise ModelError(
                f"{name}.{tensor_name} is not in memory: the network is offloaded (enable_sequential_cpu_offload) or "
                "was never loaded; quantize the pipeline before offloading it"
            )
        broken = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if broken:
            raise ModelError(
                f"{name}.{tensor_name}: {broken} of {tensor.numel()} values are NaN or infinite; load intact weights"
            )
