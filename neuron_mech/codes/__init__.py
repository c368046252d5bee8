"""What a neuron tells the layers after it: pre-activations cut to two values or to a window, and read again."""
