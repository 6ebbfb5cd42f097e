"""Checkpoints in the layouts of the papers' own code, as diffusers pipelines: one file a layout."""
