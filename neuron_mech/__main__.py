"""`python -m neuron_mech`: where the commands are."""

from neuron_mech import __version__

print(
    f"neuron_mech {__version__} is a library: `import neuron_mech`. Its experiments are run from a checkout of the "
    "repository: `python -m experiments` there lists them."
)
