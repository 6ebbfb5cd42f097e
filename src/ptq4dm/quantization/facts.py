"""What is known of a quantized model, as plain JSON data that travels with the artifact."""

from typing import Any

from torch import nn

from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.quantization.quantized_model import tensor_bytes


def model_facts(network: nn.Module, pipeline: Pipeline | None) -> dict[str, Any]:
    """Name, class, parameters, bytes and fingerprint of the float network."""
    facts: dict[str, Any] = {
        "name": pipeline.name if pipeline else type(network).__name__,
        "class": type(network).__name__,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "float_bytes": tensor_bytes(network),
    }
    if pipeline is not None:
        facts |= {"fingerprint": pipeline.fingerprint, "picture_shape": list(pipeline.picture_shape)}
    return facts
