"""Devices, processes, memory, and the settings of JAX that decide numbers."""
