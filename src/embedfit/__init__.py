"""Documents in, a retrieval model that is provably better on them out."""

__version__ = "0.1.0"
