"""Recipes: complete, typed configurations of data, family, training and judging."""
