"""The command line of `command`."""

from experiments.publish.command import main

main()
