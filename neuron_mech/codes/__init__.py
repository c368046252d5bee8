"""Codes of neurons: pre-activations quantized to two values or binarized by windows, and the accuracy that remains."""
