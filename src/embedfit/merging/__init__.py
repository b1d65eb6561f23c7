"""Merging models, and the decision what ships."""
