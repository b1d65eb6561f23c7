"""`python -m embedfit`: the command line."""

from embedfit.cli import main

main()
