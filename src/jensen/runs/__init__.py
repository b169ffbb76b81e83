"""Runs: folders of trained models; training, opening, sampling, judging and comparing them."""
