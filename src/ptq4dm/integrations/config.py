"""The `quantization_config` of a network: what diffusers reads before a quantized network is built."""

from enum import StrEnum
from pathlib import Path
from typing import Any

from diffusers.quantizers.quantization_config import QuantizationConfigMixin

from ptq4dm.errors import ArtifactError
from ptq4dm.registration import METHOD


class Method(StrEnum):
    """The name of the method, as diffusers wants it: an enumeration of one."""

    PTQ4DM = METHOD


class PTQ4DMConfig(QuantizationConfigMixin):
    """Quantize a float network while diffusers loads it, with the ranges of an earlier run.

    For `PipelineQuantizationConfig(quant_mapping={"unet": PTQ4DMConfig(calibrated=FOLDER)})`, or a network's
    `from_pretrained(..., quantization_config=PTQ4DMConfig(calibrated=FOLDER))`. The input scales and zero points
    come from the artifact in FOLDER; the weights are rounded now, those of its weight-only layers too, and put to
    float16 where the run did. An artifact holds no statistics of the calibration data, so the weights are rounded to
    their own least error, not to that of the layer's output, and no bias is corrected: `ptq4dm.quantize` gives the
    better network.

    calibrated: a folder that `ptq4dm quantize --out` or `QuantizedModel.save` wrote. component: which denoiser of it,
    where it holds several.
    """

    def __init__(self, calibrated: str | Path | None = None, component: str | None = None):
        self.quant_method = Method.PTQ4DM  # pyright: ignore[reportAttributeAccessIssue] (diffusers' enumeration is closed)
        self.calibrated = None if calibrated is None else str(calibrated)
        self.component = component
        self.header: dict[str, Any] = {}

    @classmethod
    def of_header(cls, header: dict[str, Any]) -> "PTQ4DMConfig":
        """The config of a network that is quantized. header: an artifact's `quantization_config`."""
        config = cls()
        config.header = {**header, "layers": list(header["layers"])}
        return config

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The config of a saved network. Raises ArtifactError for a damaged one or one of a newer format."""
        from ptq4dm.quantization.artifact import check_version  # imports diffusers' pipelines, which import us

        where = Path("config.json (quantization_config)")
        check_version(config_dict.get("format_version"), where)
        layers, arithmetic = config_dict.get("layers"), config_dict.get("arithmetic")
        if not isinstance(layers, list) or not all(isinstance(name, str) for name in layers):
            raise ArtifactError(f"{where}: layers = {layers!r:.60} is no list of names: quantize the model again")
        for key in ("half", "weight_only", "attention_products"):
            names = config_dict.get(key, [])
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ArtifactError(f"{where}: {key} = {names!r:.60} is no list of names: quantize the model again")
        shared = config_dict.get("shared", {})
        if not isinstance(shared, dict) or not all(isinstance(name, str) for name in shared.values()):
            raise ArtifactError(f"{where}: shared = {shared!r:.60} is no table of names: quantize the model again")
        if arithmetic not in ("float-out", "qdq"):
            raise ArtifactError(f"{where}: arithmetic = {arithmetic!r}: accepted are float-out, qdq")
        config = cls.of_header(config_dict)
        return (config, kwargs) if return_unused_kwargs else config

    @property
    def layers(self) -> list[str]:
        """The names of the quantized layers; [] before the network is quantized."""
        return self.header.get("layers", [])

    @property
    def half(self) -> list[str]:
        """The names of the float layers whose weights are in float16."""
        return list(self.header.get("half", []))

    @property
    def weight_only(self) -> list[str]:
        """The names of the layers with 8-bit weights and float inputs."""
        return list(self.header.get("weight_only", []))

    @property
    def attention_products(self) -> list[str]:
        """The names of the attentions whose products are in 8 bits."""
        return list(self.header.get("attention_products", []))

    @property
    def shared(self) -> dict[str, str]:
        """The further names of layers that the network has under several, each with the first."""
        return dict(self.header.get("shared", {}))

    @property
    def smoothed(self) -> bool:
        """Whether some layers have smoothed inputs."""
        return bool(self.header.get("smoothed", False))

    @property
    def arithmetic(self) -> str:
        """`float-out` or `qdq`."""
        return self.header.get("arithmetic", "float-out")

    def to_dict(self) -> dict[str, Any]:
        """As JSON data: of a quantized network exactly what its artifact holds."""
        if self.header:
            return {**self.header, "layers": list(self.layers)}
        return {"quant_method": METHOD, "calibrated": self.calibrated, "component": self.component}

    def to_diff_dict(self) -> dict[str, Any]:
        """As `to_dict`: nothing has a default."""
        return self.to_dict()
