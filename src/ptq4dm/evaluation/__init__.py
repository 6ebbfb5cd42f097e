"""Evaluation: how close to the float model, how far from the data, how fast, how large."""
