"""Merging models, and the decision which model ships."""
