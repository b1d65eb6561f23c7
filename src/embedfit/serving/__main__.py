"""`python -m embedfit.serving MODEL` is `embedfit serve MODEL`."""

from embedfit.cli_serve import main

if __name__ == "__main__":
    main()
