"""Videos of few of their frames: all 360 of a site take ten seconds to draw."""

FEW_FRAMES = 12

REPRODUCE = f"""
from experiments import reproduce
from neuron_mech.paper import videos
videos.FRAMES = {FEW_FRAMES}
reproduce.main()"""
"""A program for `python -c`: as `python -m experiments.reproduce`, but for the frames."""
