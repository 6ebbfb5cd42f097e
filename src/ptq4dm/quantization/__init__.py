"""From a plan and ranges to a quantized model: weights, layers, the artifact."""
