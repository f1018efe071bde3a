"""The figures of `passl visualize`, one module each."""
