"""How a hidden neuron learns: gradient signs of single samples, recorded through training, in JAX and Flax."""
