"""Tuning for vectors that can't be computed again: a map for query vectors, and moved passage vectors."""
