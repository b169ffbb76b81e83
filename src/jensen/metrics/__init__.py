"""How good samples are, with an error on every number."""

from jensen.metrics.energy import Distance, energy_distance
from jensen.metrics.legibility import Legibility, legibility
from jensen.metrics.likelihood import bits_per_dim
from jensen.metrics.neighbours import mean_pairwise_distance, nearest_distance
from jensen.metrics.proportion import Proportion, wilson

__all__ = [
    "Distance",
    "Legibility",
    "Proportion",
    "bits_per_dim",
    "energy_distance",
    "legibility",
    "mean_pairwise_distance",
    "nearest_distance",
    "wilson",
]
