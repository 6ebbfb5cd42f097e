"""ptq4dm: a pretrained diffusion model, made 8-bit without any training, that really runs faster."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ptq4dm.registration import register_with_diffusers

if TYPE_CHECKING:
    from ptq4dm.calibration.calibration_set import CalibrationSet
    from ptq4dm.errors import PTQ4DMError
    from ptq4dm.integrations.accelerated import accelerate
    from ptq4dm.integrations.config import PTQ4DMConfig
    from ptq4dm.pipelines.condition_datasets import dataset_conditions
    from ptq4dm.pipelines.condition_folders import folder_conditions
    from ptq4dm.pipelines.denoiser import Call
    from ptq4dm.pipelines.originals.convert import convert_checkpoint
    from ptq4dm.pipelines.pipeline import Pipeline, open_pipeline
    from ptq4dm.quantization.artifact import load
    from ptq4dm.quantization.quantized_model import QuantizedModel
    from ptq4dm.ranges.range_table import RangeTable
    from ptq4dm.recipe import Recipe, load_recipe
    from ptq4dm.workflow import quantize, quantize_module

__version__ = "0.1.0"
__all__ = [
    "CalibrationSet",
    "Call",
    "PTQ4DMConfig",
    "PTQ4DMError",
    "Pipeline",
    "QuantizedModel",
    "RangeTable",
    "Recipe",
    "accelerate",
    "convert_checkpoint",
    "dataset_conditions",
    "folder_conditions",
    "load",
    "load_recipe",
    "open_pipeline",
    "quantize",
    "quantize_module",
]

_HOMES = {
    "CalibrationSet": "ptq4dm.calibration.calibration_set",
    "Call": "ptq4dm.pipelines.denoiser",
    "PTQ4DMConfig": "ptq4dm.integrations.config",
    "PTQ4DMError": "ptq4dm.errors",
    "Pipeline": "ptq4dm.pipelines.pipeline",
    "QuantizedModel": "ptq4dm.quantization.quantized_model",
    "RangeTable": "ptq4dm.ranges.range_table",
    "Recipe": "ptq4dm.recipe",
    "accelerate": "ptq4dm.integrations.accelerated",
    "convert_checkpoint": "ptq4dm.pipelines.originals.convert",
    "dataset_conditions": "ptq4dm.pipelines.condition_datasets",
    "folder_conditions": "ptq4dm.pipelines.condition_folders",
    "load": "ptq4dm.quantization.artifact",
    "load_recipe": "ptq4dm.recipe",
    "open_pipeline": "ptq4dm.pipelines.pipeline",
    "quantize": "ptq4dm.workflow",
    "quantize_module": "ptq4dm.workflow",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import ptq4dm` is quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ptq4dm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


register_with_diffusers()
