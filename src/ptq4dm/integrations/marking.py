"""What tells diffusers that a network is quantized, so that it saves it as such."""

from collections.abc import Mapping
from typing import Any

from diffusers import ModelMixin
from torch import nn

from ptq4dm.errors import ModelError
from ptq4dm.integrations.config import Method, PTQ4DMConfig
from ptq4dm.integrations.quantizer import PTQ4DMQuantizer
from ptq4dm.pipelines.fused import fused_attentions
from ptq4dm.quantization.shared import layers_entry
from ptq4dm.quantization.time_axis import axis_entry
from ptq4dm.registration import TELLING

SCALES = "weight_scale"
"""The parameter of quantized layers, which stays in float32 whatever the network is cast to."""


def mark(model: Any, quantizer: PTQ4DMQuantizer) -> None:
    """Give a network its quantizer, and its config the quantizer's config, as `from_pretrained` does.

    Its `is_quantized` says no: diffusers refuses to cast a network that says yes, and `from_pipe` casts every part of
    a pipeline, if only to the type that it has. Casting does no harm here: quantized layers keep their types.
    """
    model.is_quantized = False
    model.quantization_method = Method.PTQ4DM
    model.hf_quantizer = quantizer
    beside = set_beside(model.config)
    model.register_to_config(quantization_config=quantizer.quantization_config)
    for key, value in beside.items():
        setattr(model.config, key, value)
    kept = vars(model).get("_keep_in_fp32_modules", type(model)._keep_in_fp32_modules) or []
    if SCALES not in kept:  # diffusers asks the first parameter that is not kept in float32 for the network's dtype
        model._keep_in_fp32_modules = [*kept, SCALES]
    if hasattr(model, "fuse_qkv_projections"):
        methods = ("fuse_qkv_projections", "unfuse_qkv_projections")
        vars(model).update(dict.fromkeys(methods if fused_attentions(model) else methods[:1], refuse_fusing))


def set_beside(config: Any) -> dict[str, Any]:
    """What was set on a config object and is not among its items, such as `encoder_hid_dim_type` by an IP-Adapter.

    `register_to_config` makes the object anew of its items: without it the network would ignore the adapter.
    """
    return {key: value for key, value in vars(config).items() if key in config and value != config[key]}


def refuse_fusing() -> None:
    """In place of `fuse_qkv_projections`, which would take the integers for weights and tell nobody, and of
    `unfuse_qkv_projections` where the single layers are gone."""
    raise ModelError("the projections of this network are quantized and cannot be fused or unfused: leave that out")


def marked(network: nn.Module, arithmetic: str, time_axis: Mapping[str, Any] | None = None) -> nn.Module:
    """The quantized network itself, which diffusers can save from now on; other modules are left as they are.

    time_axis: the calibrated one, which is saved with it.
    """
    if isinstance(network, ModelMixin) and quantization_of(network) is None:
        from ptq4dm.quantization.artifact import format_version

        header = {"quant_method": TELLING, "format_version": format_version(network), "arithmetic": arithmetic}
        config = PTQ4DMConfig.of_header({**header, **layers_entry(network), **axis_entry(time_axis)})
        mark(network, PTQ4DMQuantizer(config, pre_quantized=True))
    return network


def quantization_of(network: Any) -> PTQ4DMConfig | None:
    """The config of a network that is marked as quantized by ptq4dm, else None."""
    config = getattr(getattr(network, "hf_quantizer", None), "quantization_config", None)
    return config if isinstance(config, PTQ4DMConfig) else None
