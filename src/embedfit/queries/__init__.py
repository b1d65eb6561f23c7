"""Search queries that a language model writes for passages."""
