"""What to show and how to draw it: a results folder becomes one self-contained HTML page."""
