"""Where a diffusion model comes in, and the loop that draws pictures with it."""
