"""IP-Adapter layers of a saved network: its config does not tell of them, the names of its tensors do."""

from collections.abc import Collection, Mapping
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ptq4dm.errors import ArtifactError, ModelError

PROJECTIONS: Final = "encoder_hid_proj.image_projection_layers."
OWN_LAYERS: Final = (PROJECTIONS, ".to_k_ip.")
"""What the names of an adapter's tensors hold, in a UNet or another network."""
PLAIN: Final = {
    "proj.weight": "image_embeds.weight",
    "proj.bias": "image_embeds.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
"""The tensors of a plain adapter's projection: their names in its own file, and in the network."""


def attach_adapters(network: nn.Module, tensors: Mapping[str, Tensor], where: Any) -> None:
    """Give a float network, just built of its config, the empty adapter layers that saved tensors belong in.

    The strength of each is 1, as after `load_ip_adapter`: `pipeline.set_ip_adapter_scale` sets it. Raises ArtifactError
    that names `where`: adapters of another kind than the plain one.
    """
    numbers = numbers_of(tensors)
    if not numbers:
        return
    adapters = [empty_adapter(network, tensors, number, where) for number in numbers]
    network._load_ip_adapter_weights(adapters, low_cpu_mem_usage=False)  # pyright: ignore[reportCallIssue] (of a UNet)


def stay_in_use(network: nn.Module) -> None:
    """Have a network use its adapters whatever is registered to its config later: diffusers notes that it has some on
    the config object only, which registering makes anew (`from_pretrained` does, at its very end)."""

    def note(network: Any, args: Any) -> None:
        network.config.encoder_hid_dim_type = "ip_image_proj"

    network.register_forward_pre_hook(note)


def require_plain_adapters(network: nn.Module, where: str) -> None:
    """Raise ModelError that names `where` for a network with adapters that `attach_adapters` could not attach."""
    tensors = network.state_dict()
    if not any(mark in name for name in tensors for mark in OWN_LAYERS):
        return
    try:
        for number in numbers_of(tensors) or [0]:
            empty_adapter(network, tensors, number, where)
    except ArtifactError as error:
        raise ModelError(str(error)) from error


def numbers_of(tensors: Collection[str]) -> list[int]:
    """Which adapters a network has, by the names of its tensors: 0, 1, ..."""
    return sorted({int(name.removeprefix(PROJECTIONS).split(".")[0]) for name in tensors if PROJECTIONS in name})


def empty_adapter(
    network: nn.Module, tensors: Mapping[str, Tensor], number: int, where: Any
) -> dict[str, dict[str, Tensor]]:
    """An adapter of zeros as diffusers reads it: its cross-attentions are numbered 1, 3, 5, ...

    Raises ArtifactError.
    """
    if not isinstance(network, UNet2DConditionModel):
        raise ArtifactError(f"{where}: a {type(network).__name__} with an IP-Adapter cannot be loaded: save it without")
    wanted = {theirs: f"{PROJECTIONS}{number}.{ours}" for theirs, ours in PLAIN.items()}
    attention = {}
    names = [name for name in network.attn_processors if not name.endswith("attn1.processor")]
    for index, name in enumerate(names):
        for part in ("to_k_ip", "to_v_ip"):
            attention[f"{2 * index + 1}.{part}.weight"] = f"{name}.{part}.{number}.weight"
    if any(name not in tensors for name in (*wanted.values(), *attention.values())):
        raise ArtifactError(
            f"{where}: its IP-Adapter is not of the plain kind, which alone can be loaded (no Plus, no Face ID): "
            "quantize the pipeline without it"
        )
    parts = {"image_proj": wanted, "ip_adapter": attention}
    return {part: {key: torch.zeros(tensors[name].shape) for key, name in held.items()} for part, held in parts.items()}
