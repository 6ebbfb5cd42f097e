"""Engines that run on the CPU: one folder each."""
