"""What a backend is: something that turns a quantized network into one that runs somewhere, with the same signature."""

from typing import Protocol, runtime_checkable

from torch import nn

from ptq4dm.pipelines.denoiser import Call


@runtime_checkable
class Backend(Protocol):
    """Runs quantized networks. name: "simulated", "openvino", ...; arithmetic: "float-out" or "qdq"."""

    @property
    def name(self) -> str:
        """The name that users write."""
        ...

    @property
    def arithmetic(self) -> str:
        """What the backend rounds: "float-out" (inputs and weights) or "qdq" (outputs as well)."""
        ...

    @property
    def device(self) -> str:
        """The type of device it computes on: "cpu", "cuda", ..., or "any" (`backends.places` puts networks there)."""
        ...

    def unavailable(self) -> str | None:
        """Why the backend cannot be used here, with the pip line that mends it; None if it can."""
        ...

    def prepare(self, network: nn.Module, example: Call | None) -> nn.Module:
        """A module with the class, the call signature and the return types of `network`, for calls like `example`;
        without one it learns from the first call that is made.

        Raises BackendError if the network cannot be expressed, or would not be exact on this processor.
        """
        ...
