"""Vectors on disk and what they are of."""
