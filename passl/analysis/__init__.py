"""Looking at runs and networks."""
