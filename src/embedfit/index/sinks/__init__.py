"""Sinks, which take the passages and vectors of an index: one module for each format or database."""
