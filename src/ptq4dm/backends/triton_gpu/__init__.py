"""The Triton backend: quantized networks in real INT8 on NVIDIA GPUs, and in Triton's interpreter on the CPU."""
