"""The quantizer that diffusers' `from_pretrained` calls step by step for a network with our `quantization_config`.

Imports of later stages stand inside the methods: this module is imported while diffusers itself is.
"""

import warnings
from typing import Any

import torch
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.utils import is_accelerate_available
from torch import Tensor, nn

from ptq4dm.errors import ArtifactError, MissingDependencyError, ModelError, SimulatedWarning
from ptq4dm.integrations.config import PTQ4DMConfig

told: set[str] = set()
"""What was said already in this process."""


class PTQ4DMQuantizer(DiffusersQuantizer):
    """Builds a quantized network on the simulated backend: of an artifact, or of a float checkpoint and known ranges.

    `pre_quantized` says which. Scales, biases and integers of quantized layers keep the types they were saved in,
    whatever `torch_dtype` the rest is loaded in.
    """

    use_keep_in_fp32_modules = True
    required_packages = ["accelerate"]  # noqa: RUF012 (diffusers' own)

    def __init__(self, quantization_config: PTQ4DMConfig, **kwargs: Any):
        super().__init__(quantization_config, **kwargs)
        self.quantization_config: PTQ4DMConfig = quantization_config
        self.saved: list[str] | None = None
        self.files: list[str] = []
        self.calibrated: Any = None
        if not self.pre_quantized:
            from ptq4dm.integrations.calibrated import read_calibrated

            self.calibrated = read_calibrated(quantization_config)

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Raise MissingDependencyError without accelerate, ModelError for a placement that cannot be."""
        if not is_accelerate_available():
            raise MissingDependencyError("from_pretrained of an INT8 network needs accelerate: pip install accelerate")
        device_map = kwargs.get("device_map")
        places = {str(place) for place in device_map.values()} if isinstance(device_map, dict) else set()
        if "disk" in places:
            raise ModelError("device_map puts parts of an INT8 network on the disk: use the CPU or a GPU")
        if not self.pre_quantized and len(places) > 1:
            raise ModelError(f"device_map spreads a network over {', '.join(sorted(places))} while it is being "
                             "quantized: load it on one device")  # fmt: skip

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: list[str]) -> list[str]:
        """Note the names of the saved tensors and check their fingerprint. Raises ArtifactError: not what was saved."""
        if self.pre_quantized:
            from ptq4dm.integrations.fingerprints import check_fingerprint

            check_fingerprint(checkpoint_files)
            self.saved, self.files = list(loaded_keys), [str(file) for file in checkpoint_files]
        return loaded_keys

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        """Put empty quantized layers in place, on the meta device as the rest of the network."""
        if not self.pre_quantized:
            self.calibrated.check(model)
            return
        from ptq4dm.integrations.fingerprints import empty_tensors
        from ptq4dm.pipelines.fused import drop_idle_layers, fuse_again
        from ptq4dm.quantization.attention_products import put_products
        from ptq4dm.quantization.filling import (
            put_empty_float_layers,
            put_empty_layers,
            rounded_layers,
            smoothed_layers,
        )
        from ptq4dm.quantization.ip_adapters import attach_adapters, numbers_of, stay_in_use
        from ptq4dm.quantization.shared import share
        from ptq4dm.quantization.time_bands import restore_bands

        config = self.quantization_config
        if self.saved is None and (config.arithmetic == "qdq" or config.smoothed):
            raise ModelError(
                "this diffusers is too old to load smoothed layers or the arithmetic 'qdq': pip install -U diffusers"
            )
        saved = self.saved or ()
        if numbers_of(saved):
            vars(model)["is_quantized"] = False  # diffusers casts what it attaches
            attach_adapters(model, empty_tensors(self.files), type(model).__name__)
            stay_in_use(model)
        fuse_again(model, config.fused, type(model).__name__)
        drop_idle_layers(model)
        rounded, smoothed = rounded_layers(config.layers, saved), smoothed_layers(config.layers, saved)
        put_empty_layers(model, config.layers, rounded, smoothed, type(model).__name__)
        put_empty_float_layers(model, config.half, config.weight_only, type(model).__name__)
        put_products(model, config.attention_products, where=type(model).__name__)
        restore_bands(model, config.time_bands, type(model).__name__)
        share(model, config.shared, type(model).__name__)

    def update_missing_keys(self, model: nn.Module, missing_keys: list[str], prefix: str) -> list[str]:
        """Raise ArtifactError where diffusers would only warn: tensors that are missing, or that nothing asks for."""
        from ptq4dm.quantization.shared import belongs

        unknown = sorted(set(self.saved or ()) - set(model.state_dict()))
        missing_keys = [name for name in missing_keys if not belongs(name, self.quantization_config.shared)]
        if self.pre_quantized and (missing_keys or unknown):
            what = f"{min(missing_keys)} is missing" if missing_keys else f"{unknown[0]} is in no layer"
            raise ArtifactError(f"the tensors do not fit {type(model).__name__}: {what}: quantize the model again")
        return missing_keys

    def check_if_quantized_param(
        self, model: nn.Module, param_value: Tensor, param_name: str, state_dict: dict[str, Any], **kwargs: Any
    ) -> bool:
        """Whether a tensor is one of a quantized layer, or of a layer that will be."""
        from ptq4dm.quantization.layers import FixedTypes

        owner, _, _ = param_name.rpartition(".")
        if self.pre_quantized:
            return isinstance(model.get_submodule(owner), FixedTypes)
        return owner in self.calibrated.shapes

    def create_quantized_param(
        self,
        model: nn.Module,
        param_value: Tensor,
        param_name: str,
        target_device: Any,
        state_dict: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Put the tensor as it was saved, not as `torch_dtype` would have it, on its device."""
        owner, _, name = param_name.rpartition(".")
        module, saved = model.get_submodule(owner), state_dict[param_name]
        if self.pre_quantized:
            if saved.dtype != getattr(module, name).dtype:
                raise ArtifactError(f"{param_name} is {saved.dtype}: quantize the model again")
            held = saved.to(target_device)
            setattr(module, name, nn.Parameter(held, requires_grad=False) if name in module._parameters else held)
        else:
            module._parameters[name] = nn.Parameter(saved.to(target_device, torch.float32), requires_grad=False)

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        """Check what was loaded, or quantize it; say once that this is the simulated backend."""
        from ptq4dm.integrations.marking import mark
        from ptq4dm.quantization.filling import check_values
        from ptq4dm.quantization.time_axis import check_axis, watch_time

        if self.pre_quantized:
            check_values(model.state_dict(), type(model).__name__)
        else:
            self.quantization_config = self.calibrated.apply(model)
            self.pre_quantized = True
        mark(model, self)
        axis = self.quantization_config.time_axis
        check_axis(axis, type(model), f"config.json of {type(model).__name__}")
        watch_time(model, axis)
        model.requires_grad_(False)
        say_once(
            "simulated",
            f"{type(model).__name__} was loaded on the simulated backend: the numbers of INT8, but not its speed. "
            "ptq4dm.accelerate(pipeline) swaps it for real INT8",
        )
        return model

    def get_state_dict_and_metadata(
        self, state_dict: dict[str, Any], safe_serialization: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What `save_pretrained` writes: the tensors, with their fingerprint in the metadata."""
        from ptq4dm.integrations.fingerprints import fingerprint_metadata
        from ptq4dm.quantization.shared import saved_tensors

        tensors = saved_tensors(state_dict, self.quantization_config.shared)
        return tensors, fingerprint_metadata(tensors)

    @property
    def is_serializable(self) -> bool:
        """Yes: by `save_pretrained`, whole or in shards."""
        return True

    @property
    def is_trainable(self) -> bool:
        """No: it is post-training quantization."""
        return False


def say_once(what: str, message: str) -> None:
    """Warn the first time in a process."""
    if what not in told:
        told.add(what)
        warnings.warn(message, SimulatedWarning, stacklevel=2)
