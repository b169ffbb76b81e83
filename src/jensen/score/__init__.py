"""Score matching, the scores of kernel densities, and Langevin dynamics."""
