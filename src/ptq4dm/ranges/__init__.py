"""Ranges: what activations look like over the time-steps, and the scale and zero point chosen for each."""
