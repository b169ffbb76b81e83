"""Findings made visible: pages, tables and plots. Sees no model and no recipe."""
