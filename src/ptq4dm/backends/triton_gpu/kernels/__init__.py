"""Triton kernels, one operation a file: formula, source, reference, launch, wrapper. Imported with triton."""
