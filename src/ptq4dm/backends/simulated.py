"""The simulated backend: the quantized network itself, in torch. It is the specification of the others."""

from torch import nn

from ptq4dm.pipelines.denoiser import Call


class SimulatedBackend:
    """Runs the INT8 arithmetic with torch's float operators: exact, slow, on any device."""

    name = "simulated"
    arithmetic = "float-out"
    device = "any"

    def unavailable(self) -> str | None:
        """None: torch is always there."""
        return None

    def prepare(self, network: nn.Module, example: Call | None) -> nn.Module:
        """The network itself, in evaluation mode."""
        return network.eval()
