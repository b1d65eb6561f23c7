"""Arithmetic that several rooms share: arrays, ranking with ties, batches by length, near-duplicates, the machine."""
