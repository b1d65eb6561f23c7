"""Rules on the text of a written query."""
