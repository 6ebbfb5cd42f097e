"""The built-in pretrained model, its card and its data."""
