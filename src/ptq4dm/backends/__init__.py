"""What runs a quantized network: the simulated backend, which defines the numbers, and engines held to it."""
