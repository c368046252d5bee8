"""One short module per experiment: `python -m experiments.NAME PRESET [--section.field value]`."""
