"""Copy a reproduced run's results into results/, under the name of its directory, and all verdicts into the pages.

    python -m experiments.publish runs/mnist-relu runs/mnist-sigmoid runs/early_layers-digits

Copies claims.json, the main figures, smaller, and average_signs.nc where that is no more than a few megabytes; and
writes README.md, what was measured in tables, and run.json: the command, the commits of the code, seeds, device and
time. A run of an open question goes to results/open_questions/, with its options and result file in their place.
Without a directory it only makes the tables of README.md and docs/results/ anew from what results/ holds.
"""
