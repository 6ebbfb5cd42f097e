"""ptq4dm: a pretrained diffusion model, made 8-bit without any training, that really runs faster."""

from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.errors import PTQ4DMError
from ptq4dm.pipelines.denoiser import Call
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
    "PTQ4DMError",
    "Pipeline",
    "QuantizedModel",
    "RangeTable",
    "Recipe",
    "load",
    "load_recipe",
    "open_pipeline",
    "quantize",
    "quantize_module",
]
