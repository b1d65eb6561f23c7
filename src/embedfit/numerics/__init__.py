"""Arithmetic that several rooms share, and the machine that does it."""
