"""Bounds on log p(x), marginal likelihoods, inference and mean fields."""
