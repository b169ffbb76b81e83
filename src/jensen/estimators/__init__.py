"""Gradients of $E_q[f]$: pathwise, score function, relaxed; stochastic graphs."""
