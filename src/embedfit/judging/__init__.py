"""Judges: models that say whether a passage answers a query."""
