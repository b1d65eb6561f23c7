"""Embedding models: their sources, their folders on disk, and text to vectors."""
