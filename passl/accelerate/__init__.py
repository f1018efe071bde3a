"""Faster CPU kernels for the networks."""
