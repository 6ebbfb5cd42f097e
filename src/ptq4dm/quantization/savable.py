"""Whether a pipeline can be loaded again once it is quantized: told before the long work, refused at saving."""

import warnings

from ptq4dm.errors import ModelError, SavingWarning
from ptq4dm.pipelines.classes import public_class
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.quantization.ip_adapters import require_plain_adapters


def require_savable(pipeline: Pipeline) -> None:
    """Raise ModelError where the pipeline or a denoiser is of no public class, or has an IP-Adapter that no config or
    name of a tensor tells of."""
    public_class(pipeline.source)
    for name, denoiser in pipeline.denoisers.items():
        public_class(denoiser)
        require_plain_adapters(denoiser, f"{pipeline.name}: {name}")


def warn_unless_savable(pipeline: Pipeline) -> None:
    """Warn where saving will be refused; what is quantized can be used all the same."""
    try:
        require_savable(pipeline)
    except ModelError as error:
        warnings.warn(f"the quantized model can be used now, but not saved: {error}", SavingWarning, stacklevel=2)
