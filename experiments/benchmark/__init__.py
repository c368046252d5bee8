"""Speed, in a room of its own: `python -m experiments.benchmark PRESET`."""
