"""Queries that a language model writes of passages."""
