"""A run on another computer: what it needs of this one, and its whole life."""
