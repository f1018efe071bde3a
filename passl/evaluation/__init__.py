"""Predictions and everything computed from them."""
