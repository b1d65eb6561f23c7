"""`python -m embedfit`: the command line."""

from embedfit.cli.main import main

main()
