"""diffusers' own from_pretrained and save_pretrained for quantized networks, and real INT8 in a pipeline in place."""

import diffusers.quantizers  # noqa: F401 (whole before the modules here, which its registration imports)
