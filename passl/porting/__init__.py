"""Weights from files: `load_weights(model, path)`."""

from passl.porting.load import load_weights as load_weights
from passl.porting.load import read_weights as read_weights
