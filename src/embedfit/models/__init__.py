"""Embedding models: where they come from, how they lie on disk, text to vectors."""
