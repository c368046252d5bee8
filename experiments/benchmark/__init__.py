"""Speed against PyTorch and against the rate of a matrix multiply, in a room of its own.

python -m experiments.benchmark PRESET
"""
