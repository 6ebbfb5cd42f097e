"""Which (x_t, t) the ranges are measured on: laws of t, sources of x_t, the saved set."""
