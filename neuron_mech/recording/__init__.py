"""Counting the signs of every sample's own derivative: the recorder, what it will cost, and what its counts say."""
