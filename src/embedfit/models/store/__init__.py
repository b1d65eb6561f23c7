"""Vectors on disk, the models that made them, and the texts that they stand for."""
