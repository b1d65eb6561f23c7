"""Embedders: models that turn texts into vectors behind an address or at AWS, and the table of their kinds."""
