"""Measuring retrieval systems: what is compared, on which queries, and what may be said of it."""
