"""Findings as pages, tables and plots. It imports neither models nor recipes."""
