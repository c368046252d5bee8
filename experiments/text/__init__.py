"""Past the paper: the hidden neurons of a small transformer's MLPs, on a text of your own.

    python -m experiments.text --text FILE

Trains a character transformer to predict the next character and records the signs of the derivatives at its MLPs'
hidden neurons with `neuron_mech.recorder`, which takes the model as it is. Then it asks what linear probes read from
windows of the neurons' ranges at the last position, with the untrained network as control. A run that is stopped goes
on from its last checkpoint, to the same bits.
Writes into RUN_DIR figures/ (figure5, constancy_by_position, windows) and, last, text.nc.
"""
